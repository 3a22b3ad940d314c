"""Files that commands write because an option names them."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.cli.output import prepare_output
from headrace.kernel.errors import CallError


def test_the_folder_of_an_output_is_made(tmp_path: Path) -> None:
    assert prepare_output(tmp_path / "a" / "b" / "rows.parquet") == tmp_path / "a" / "b" / "rows.parquet"
    assert list((tmp_path / "a" / "b").iterdir()) == []


@pytest.mark.parametrize(
    ("name", "message"), [("", "is not a plain file"), ("file/x", "cannot be written: File exists")]
)
def test_an_output_that_cannot_be_written_is_an_error(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CallError, match=message):
        prepare_output(tmp_path / name)
