"""How long a topic waits for the merges of the identities that its duplicates are found by.

    python bench/identities.py [--json] [--identities 50000000]

Batches of 125,000 new identities are admitted, as ingest does; every batch must be admitted whole, and the
last one again not at all. The longest batch is the one that merges the longest files: in ingest the topic
waits for it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl

from headrace.events.ingest.ingest import BATCH
from headrace.events.verdicts.identities import RecentIdentities
from headrace.events.verdicts.watermarks import Watermarks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one object a line")
    parser.add_argument("--identities", type=int, default=50_000_000)
    options = parser.parse_args()
    for work, ours in measure(options.identities).items():
        figure = {"work": f"{options.identities:,} identities admitted, {work}", "ours": ours, "unit": "s"}
        print(json.dumps(figure) if options.json else figure, flush=True)


def measure(count: int) -> dict[str, float]:
    """Admits so many identities of one log partition; returns what took how many seconds."""
    partitions, seconds = np.zeros(BATCH, np.int32), []
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as folder:
        recent = RecentIdentities(timedelta(days=1), Path(folder), Watermarks())
        for first in range(0, count, BATCH):
            numbers = np.arange(first, first + BATCH)
            identity, times = pl.DataFrame({"id": numbers}), numbers * 1_000
            started = time.perf_counter()
            admitted = recent.admit(identity, times, times, partitions)
            seconds.append(time.perf_counter() - started)
            assert admitted.all(), "a new identity was refused"
        assert not recent.admit(identity, times, times, partitions).any(), "a duplicate was admitted"
        assert len(recent) == len(seconds) * BATCH, len(recent)
    return {
        "in all": round(sum(seconds), 2),
        "the median batch": round(float(np.median(seconds)), 4),
        "the longest batch": round(max(seconds), 2),
    }


if __name__ == "__main__":
    main()
