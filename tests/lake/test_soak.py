"""Ten thousand small commits of a running ingest, with upkeep beside it: neither disk nor time climbs."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path
from statistics import median

import pytest
from tests.events.forking import settings_of
from tests.lake.folder import files, missing
from tests.lake.soaked import EVENTS, ROUNDS

from headrace import lake
from headrace.lake import LakeTable

COMMITS = int(os.environ.get("HEADRACE_SOAK_COMMITS", "10000"))
GRACE = timedelta(seconds=20)
ROOT = Path(__file__).parents[2]


def beyond_rows(table: LakeTable) -> tuple[int, int]:
    """Files and bytes of the table that are not its newest snapshot's data files."""
    sizes = files(table)
    head = table.current_snapshot()
    assert head is not None
    data, size = (int(head.summary[f"total-{what}"]) for what in ("data-files", "files-size"))
    return len(sizes) - data, sum(sizes.values()) - size


@pytest.mark.soak
def test_ten_thousand_small_commits_leave_disk_and_commit_time_flat(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    ingest = subprocess.Popen(
        [sys.executable, "-m", "tests.lake.soaked", str(tmp_path), str(COMMITS)],
        cwd=ROOT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert ingest.stdout is not None
    opened = lake.open(settings)
    ended = threading.Event()
    kept: list[lake.MaintenanceReport] = []

    def upkeep() -> None:
        while not ended.wait(2):
            for name in opened.list_tables():
                table = opened.table(name)
                kept.append(lake.maintain(table, older_than=GRACE, grace=GRACE, longest_write=GRACE * 10))

    thread = threading.Thread(target=upkeep)
    thread.start()
    took: list[float] = []
    used: list[float] = []
    fresh: list[float] = []
    beyond: list[tuple[int, int]] = []
    for line in ingest.stdout:
        name, *figures = line.split()
        wall, processor = (float(one) for one in figures)
        if name != "clicks":
            fresh.append(wall)
            print(f"  a new table's: {wall:6.1f} ms each, {processor:6.1f} ms of the processor", flush=True)
            continue
        took.append(wall)
        used.append(processor)
        beyond.append(beyond_rows(opened.table("clicks")))
        files_there, size = beyond[-1]
        print(
            f"{len(took) * 100:>6} commits: {took[-1]:6.1f} ms each, {used[-1]:6.1f} ms of the processor; "
            f"beyond its rows the table has {files_there} files, {size / 1e6:.1f} MB",
            flush=True,
        )
    ingest.stdout.close()
    ended.set()
    thread.join()
    assert ingest.wait(60) == 0
    table = opened.table("clicks")
    old = took[-ROUNDS:]
    print(
        f"a commit of the first hundred {took[0]:.1f} ms ({used[0]:.1f} of the processor), of the last "
        f"{took[-1]:.1f} ({used[-1]:.1f}); in turn with new tables' first hundreds at the end, medians: "
        f"{median(old):.1f} and {median(fresh):.1f} ms; {sum(k.compacted for k in kept)} files compacted, "
        f"{sum(k.expired for k in kept)} snapshots expired, {sum(k.deleted for k in kept)} files deleted"
    )
    offsets = table.scan().select("_log_offset").collect()["_log_offset"]
    events = (COMMITS + ROUNDS * 100) * EVENTS
    assert (offsets.len(), offsets.n_unique()) == (events, events)
    assert missing(table) == set()
    assert used[-1] <= 1.5 * min(used[:2])  # the first commits also load what they need
    before_end = slice(-ROUNDS - 10, -ROUNDS)
    assert median(took[before_end]) <= 1.5 * min(took[:2])
    assert median(used[before_end]) <= 1.5 * min(used[:2])
    assert len(fresh) == ROUNDS
    assert median(old) <= 1.5 * median(fresh)
    quarter = len(beyond) // 4
    assert max(size for _, size in beyond[-quarter:]) <= 1.5 * max(size for _, size in beyond[quarter:-quarter])
    assert max(count for count, _ in beyond[-quarter:]) <= 1.5 * max(
        count for count, _ in beyond[quarter:-quarter]
    )
