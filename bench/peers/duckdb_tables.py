"""The tables of bench/tables.py in DuckDB: reads events.parquet of a folder, writes Parquet files there.

Prints the seconds, those of CPU time, and the peak of resident memory in GiB.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import duckdb

CLEAN = 'SELECT "at", "user", product, price FROM \'{0}/events.parquet\' WHERE price > 0'
SESSIONS = """
    SELECT "user", session, min("at") AS "begin", max("at") AS "end", count(*) AS clicks, sum(price) AS spent
    FROM (
        SELECT *, sum(new) OVER (PARTITION BY "user" ORDER BY "at") AS session FROM (
            SELECT *, CAST(
                "at" - lag("at") OVER (PARTITION BY "user" ORDER BY "at") > INTERVAL 30 MINUTE AS INT) AS new
            FROM '{0}/clean.parquet')) GROUP BY "user", session"""
LABELS = 'SELECT "user", "begin", spent > 100 AS is_buyer FROM \'{0}/sessions.parquet\''

folder = Path(sys.argv[1])
start, start_cpu = time.perf_counter(), time.process_time()
for name, query in (("clean", CLEAN), ("sessions", SESSIONS), ("labels", LABELS)):
    text = query.format(folder)
    duckdb.sql(f"COPY ({text}) TO '{folder}/{name}.parquet' (FORMAT parquet, COMPRESSION zstd)")
peak = int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) / 2**20
print(time.perf_counter() - start, time.process_time() - start_cpu, peak)
