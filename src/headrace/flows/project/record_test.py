"""Records a test of a table: a few rows of its input and the rows that its function makes of them."""

from __future__ import annotations

import re
import runpy
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import polars as pl
from msgspec import Struct

from headrace.code.index import CodeIndex
from headrace.flows.build.fingerprints import check_declarations
from headrace.kernel.counts import plural
from headrace.kernel.errors import CallError, ProjectError
from headrace.kernel.files import write_file
from headrace.projects.loader import project_files
from headrace.tables.attempt import Attempt, attempt_table
from headrace.workspace import Workspace

__all__ = ["RecordedTest", "record_test"]

_IMPORTS = {
    "datetime.": "import datetime",
    "zoneinfo.": "import zoneinfo",
    "Decimal(": "from decimal import Decimal",
    "nan": "from math import nan",
    "inf": "from math import inf",
}
"""What the text of a frame names → the statement that imports it."""


class RecordedTest(Struct, frozen=True):
    """A test that was recorded.

    Attributes:
        file: its file, relative to the project.
        read: input → how many rows of it the test has.
        rows: how many rows it expects.
    """

    file: str
    read: dict[str, int]
    rows: int


def record_test(
    workspace: Workspace,
    name: str,
    *,
    partition: str | None = None,
    limit: int = 20,
    overwrite: bool = False,
) -> RecordedTest:
    """Writes a test of the table into the project's folder `tests`, and runs it once.

    Args:
        workspace: the project to work on.
        name: the table.
        partition: the partition whose rows are used; default: the last one.
        limit: how many rows of each input the test has at most.
        overwrite: whether a test that exists already is recorded anew.

    Raises:
        CallError: the table, the partition or an input does not exist, no row is expected, or the test exists
            already and has other content.
        ProjectError: the function failed, or gives other rows for the same input; or a module declares one name
            twice.
    """
    table = workspace.project.table(name)
    files = project_files(workspace.settings)
    check_declarations(CodeIndex(files), files)
    attempt = attempt_table(workspace.project, workspace.lake, table, partition=partition, limit=limit)
    expected = attempt.call()
    if expected.is_empty():
        rows = attempt.inputs.items()
        tried = ", ".join(f"{plural(frame.height, 'row')} of {source}" for source, frame in rows)
        raise CallError(
            f"{name} makes no rows of {tried}, so there is nothing to expect",
            where=str(table.place),
            remedy="Choose another partition, or more rows: --partition, --rows.",
        )
    root = workspace.settings.root
    suffix = "" if attempt.partition is None else "_" + re.sub(r"\W", "_", attempt.partition)
    file = root / "tests" / f"test_{name}{suffix}.py"
    text = _write_test(attempt, expected, f"test_{name}{suffix}")
    package = file.with_name("__init__.py")  # so that pytest finds the project's package from its root
    if not package.exists():
        write_file(_make_folder(package), b"")
    before = file.read_bytes() if file.exists() else None
    if before not in (None, text.encode()) and not overwrite:
        raise CallError(
            "this test exists already, and differs: it was edited, or the table's rows have changed",
            where=str(file),
            remedy="--overwrite records it anew; or move the edited test to a file of another name.",
        )
    write_file(file, text.encode())
    _run(file, f"test_{name}{suffix}", before, name)
    read = {source: rows.height for source, rows in attempt.inputs.items()}
    return RecordedTest(str(file.relative_to(root)), read, expected.height)


def _make_folder(file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    return file


def _run(file: Path, test: str, before: bytes | None, table: str) -> None:
    """Runs the test once. If it fails, its file is as before."""
    try:
        runpy.run_path(str(file))[test]()
    except Exception as error:
        if before is None:
            file.unlink()
        else:
            write_file(file, before)
        raise ProjectError(
            f"{table} gives other rows for the same input: {error}",
            where=str(file),
            remedy=f"headrace try {table} --strict finds what it reads beside its input.",
        ) from error


def _write_test(attempt: Attempt, expected: pl.DataFrame, test: str) -> str:
    table = attempt.table
    frames = [f"    {name} = {_spell(rows)}" for name, rows in _rename_inputs(attempt.inputs).items()]
    arguments = [f"{name}.lazy()" for name in _rename_inputs(attempt.inputs)]
    arguments += [f"{name}={_spell_moment(moment)}" for name, moment in attempt.options.items()]
    body = "\n".join(
        [
            *frames,
            f"    expected = {_spell(expected)}",
            f"    rows = {table.name}({', '.join(arguments)}).lazy().collect()",
            "    assert_frame_equal(rows, expected, check_row_order=False)",
        ]
    )
    imports = sorted({line for word, line in _IMPORTS.items() if re.search(rf"\b{re.escape(word)}", body)})
    partition = "" if attempt.partition is None else f" --partition {attempt.partition}"
    return "\n".join(
        [
            f'"""Recorded by `headrace test --record {table.name}{partition}`."""',
            "",
            *imports,
            *([""] if imports else []),
            "import polars as pl",
            "from polars.testing import assert_frame_equal",
            "",
            f"from {table.function.__module__} import {table.name}",
            "",
            "",
            f"def {test}() -> None:",
            body,
            "",
        ]
    )


def _rename_inputs(inputs: Mapping[str, pl.DataFrame]) -> dict[str, pl.DataFrame]:
    """The inputs by names that are valid in Python and differ from the table's function."""
    return {"read_" + re.sub(r"\W", "_", name): rows for name, rows in inputs.items()}


def _spell(rows: pl.DataFrame) -> str:
    """Python code that makes the frame."""
    text = rows.to_init_repr(rows.height).strip()
    return text.replace("\n", "\n    ")


def _spell_moment(moment: datetime) -> str:
    return f"datetime.datetime.fromisoformat({moment.isoformat()!r})"
