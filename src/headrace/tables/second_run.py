"""Runs a table's function once more where all but its input differs: another process, folder, home, time zone,
environment, hash seed and second of the clock.

`run_elsewhere` starts `python -m headrace.tables.second_run FOLDER`.
The folder has the input, and gets the rows.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import msgspec
import polars as pl

from headrace.config.settings import load_settings
from headrace.kernel.errors import HeadraceError, ProjectError
from headrace.kernel.scratch import make_scratch
from headrace.projects.project import Project, load_project
from headrace.tables.attempt import Attempt
from headrace.tables.call import call_function, collect_frames

__all__ = ["run_elsewhere"]

# Variables that say how Python and its libraries are found and run.
_KEPT = ("PATH", "PYTHONPATH", "VIRTUAL_ENV", "SYSTEMROOT")
_KEPT_PREFIXES = ("HEADRACE", "LD_", "DYLD_", "POLARS_", "OMP_", "OPENBLAS_", "MKL_", "SSL_", "COVERAGE_")
_JOB, _ROWS = "job.json", "rows.arrow"


class _Job(msgspec.Struct, frozen=True):
    """What the other process calls: a table's function on inputs that are numbered files, after an instant (in
    seconds since 1970)."""

    root: str
    profile: str
    table: str
    inputs: int
    options: dict[str, datetime]
    after: float


def run_elsewhere(project: Project, attempt: Attempt) -> pl.DataFrame:
    """The rows that the function makes of the same input in a process where everything else differs.

    Raises:
        ProjectError: the project cannot be loaded there, or the function fails.
    """
    settings, table = project.settings, attempt.table
    with make_scratch() as folder:
        for number, rows in enumerate(attempt.inputs.values()):
            rows.write_ipc(folder / f"{number}.arrow")
        job = _Job(
            str(settings.root.absolute()),
            settings.profile_name,
            table.name,
            len(attempt.inputs),
            dict(attempt.options),
            time.time() + 1,
        )
        (folder / _JOB).write_bytes(msgspec.json.encode(job))
        declared = {name for other in project.tables.values() for name in other.env}
        environment = {
            "HOME": str(folder),
            "USER": "somebody",
            "LOGNAME": "somebody",
            "LANG": "C.UTF-8",
            "TZ": "Pacific/Apia",
            **{key: value for key, value in os.environ.items() if key in declared or _is_kept(key)},
            "PYTHONHASHSEED": "20",
        }
        command = [sys.executable, "-m", "headrace.tables.second_run", str(folder)]
        result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        if result.returncode:
            error = result.stderr.strip().rpartition("\n")[2] or f"exit {result.returncode}"
            raise ProjectError(error, where=str(table.place))
        return pl.read_ipc((folder / _ROWS).read_bytes())


def _is_kept(variable: str) -> bool:
    return variable in _KEPT or variable.startswith(_KEPT_PREFIXES)


def _run(folder: Path) -> None:
    job = msgspec.json.decode((folder / _JOB).read_bytes(), type=_Job)
    project = load_project(load_settings(Path(job.root), job.profile), without=["feast"])
    table = project.table(job.table)
    frames = [pl.scan_ipc(folder / f"{number}.arrow") for number in range(job.inputs)]
    time.sleep(max(0.0, job.after - time.time()))  # a clock read to the second must differ
    rows = collect_frames(table, [call_function(table, frames, job.options)])[0]
    rows.write_ipc(folder / _ROWS)


def main() -> int:
    """Runs the job of the folder that is the argument; an error is the last line of the standard error."""
    try:
        _run(Path(sys.argv[1]))
    except HeadraceError as error:
        print(" ".join(error.what.split()), file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
