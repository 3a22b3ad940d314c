"""Ten thousand small commits of an ingest with concurrent maintenance: disk use and commit time stay flat."""

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
from tests.lake.folder import files, missing_files
from tests.lake.small_commits import EVENTS, ROUNDS

from headrace import lake
from headrace.lake import LakeTable

COMMITS = int(os.environ.get("HEADRACE_SOAK_COMMITS", "10000"))
GRACE = timedelta(seconds=20)
ROOT = Path(__file__).parents[2]


def overhead(table: LakeTable) -> tuple[int, int]:
    """The number and bytes of the table's files, without the data files of the newest snapshot."""
    sizes = files(table)
    head = table.current_snapshot()
    assert head is not None
    data, size = (int(head.summary[f"total-{what}"]) for what in ("data-files", "files-size"))
    return len(sizes) - data, sum(sizes.values()) - size


@pytest.mark.soak
def test_ten_thousand_small_commits_leave_disk_and_commit_time_flat(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    ingest = subprocess.Popen(
        [sys.executable, "-m", "tests.lake.small_commits", str(tmp_path), str(COMMITS)],
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
    processor_times: list[float] = []
    fresh: list[float] = []
    overheads: list[tuple[int, int]] = []
    for line in ingest.stdout:
        name, *figures = line.split()
        wall, processor = (float(figure) for figure in figures)
        if name != "clicks":
            fresh.append(wall)
            print(f"  a new table: {wall:6.1f} ms a commit, {processor:6.1f} ms of processor time", flush=True)
            continue
        durations.append(wall)
        processor_times.append(processor)
        overheads.append(overhead(shop_lake.table("clicks")))
        file_count, size = overheads[-1]
        print(
            f"{len(durations) * 100:>6} commits: {durations[-1]:6.1f} ms a commit, "
            f"{processor_times[-1]:6.1f} ms of processor time; "
            f"beside its rows the table has {file_count} files, {size / 1e6:.1f} MB",
            flush=True,
        )
    ingest.stdout.close()
    ended.set()
    thread.join()
    assert ingest.wait(180) == 0
    table = shop_lake.table("clicks")
    old = durations[-ROUNDS:]
    print(
        f"first hundred commits: {durations[0]:.1f} ms ({processor_times[0]:.1f} of processor time), "
        f"last hundred: {durations[-1]:.1f} ms ({processor_times[-1]:.1f}); "
        "medians of the old table and of new tables at the end: "
        f"{median(old):.1f} and {median(fresh):.1f} ms; {sum(k.compacted for k in reports)} files compacted, "
        f"{sum(k.expired for k in reports)} snapshots expired, {sum(k.deleted for k in reports)} files deleted"
    )
    offsets = table.scan().select("_log_offset").collect()["_log_offset"]
    events = (COMMITS + ROUNDS * 100) * EVENTS
    assert (offsets.len(), offsets.n_unique()) == (events, events)
    assert missing_files(table) == set()
    assert processor_times[-1] <= 1.5 * min(processor_times[:2])  # the first commits also load modules
    before_end = slice(-ROUNDS - 10, -ROUNDS)
    assert median(durations[before_end]) <= 1.5 * min(durations[:2])
    assert median(processor_times[before_end]) <= 1.5 * min(processor_times[:2])
    assert len(fresh) == ROUNDS
    assert median(old) <= 1.5 * median(fresh)
    quarter = len(overheads) // 4
    assert max(size for _, size in overheads[-quarter:]) <= 1.5 * max(
        size for _, size in overheads[quarter:-quarter]
    )
    assert max(count for count, _ in overheads[-quarter:]) <= 1.5 * max(
        count for count, _ in overheads[quarter:-quarter]
    )
