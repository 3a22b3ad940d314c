"""Ten thousand small commits of a running ingest, with maintenance beside it: disk and time stay flat."""

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
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert ingest.stdout is not None
    shop_lake = lake.open(settings)
    ended = threading.Event()
    reports: list[lake.MaintenanceReport] = []

    def maintain_tables() -> None:
        while not ended.wait(2):
            for name in shop_lake.list_tables():
                table = shop_lake.table(name)
                reports.append(lake.maintain(table, older_than=GRACE, grace=GRACE, longest_write=GRACE * 10))

    thread = threading.Thread(target=maintain_tables)
    thread.start()
    durations: list[float] = []
    used: list[float] = []
    fresh: list[float] = []
    beyond: list[tuple[int, int]] = []
    for line in ingest.stdout:
        name, *figures = line.split()
        wall, processor = (float(figure) for figure in figures)
        if name != "clicks":
            fresh.append(wall)
            print(f"  a new table's: {wall:6.1f} ms each, {processor:6.1f} ms of the processor", flush=True)
            continue
        durations.append(wall)
        used.append(processor)
        beyond.append(beyond_rows(shop_lake.table("clicks")))
        files_there, size = beyond[-1]
        print(
            f"{len(durations) * 100:>6} commits: {durations[-1]:6.1f} ms each, "
            f"{used[-1]:6.1f} ms of the processor; "
            f"beyond its rows the table has {files_there} files, {size / 1e6:.1f} MB",
            flush=True,
        )
    ingest.stdout.close()
    ended.set()
    thread.join()
    assert ingest.wait(60) == 0
    table = shop_lake.table("clicks")
    old = durations[-ROUNDS:]
    print(
        f"a commit of the first hundred {durations[0]:.1f} ms ({used[0]:.1f} of the processor), of the last "
        f"{durations[-1]:.1f} ({used[-1]:.1f}); in turn with new tables' first hundreds at the end, medians: "
        f"{median(old):.1f} and {median(fresh):.1f} ms; {sum(k.compacted for k in reports)} files compacted, "
        f"{sum(k.expired for k in reports)} snapshots expired, {sum(k.deleted for k in reports)} files deleted"
    )
    offsets = table.scan().select("_log_offset").collect()["_log_offset"]
    events = (COMMITS + ROUNDS * 100) * EVENTS
    assert (offsets.len(), offsets.n_unique()) == (events, events)
    assert missing(table) == set()
    assert used[-1] <= 1.5 * min(used[:2])  # the first commits also load what they need
    before_end = slice(-ROUNDS - 10, -ROUNDS)
    assert median(durations[before_end]) <= 1.5 * min(durations[:2])
    assert median(used[before_end]) <= 1.5 * min(used[:2])
    assert len(fresh) == ROUNDS
    assert median(old) <= 1.5 * median(fresh)
    quarter = len(beyond) // 4
    assert max(size for _, size in beyond[-quarter:]) <= 1.5 * max(size for _, size in beyond[quarter:-quarter])
    assert max(count for count, _ in beyond[-quarter:]) <= 1.5 * max(
        count for count, _ in beyond[quarter:-quarter]
    )
