"""The tutorial, followed as a reader would: what it shows is printed, and its end is the example `minimal`."""

from __future__ import annotations

from pathlib import Path

from tests.docs.blocks import Reader

ROOT = Path(__file__).parents[2]
PAGES = ["index", "events", "tables", "features", "model", "predictions", "why"]


def test_the_tutorial_works_as_it_is_written(tmp_path: Path) -> None:
    reader = Reader(tmp_path, HEADRACE_PREDICT_PORT="0", HEADRACE_COLLECTOR_PORT="0", HEADRACE_CONSOLE_PORT="0")
    try:
        for page in PAGES:
            reader.follow(ROOT / "docs" / "tutorial" / f"{page}.md")
    finally:
        code = reader.stop()
    assert code == 0
    example = ROOT / "examples" / "minimal"
    for file in (path for path in example.rglob("*") if path.is_file() and path.suffix in {".py", ".toml"}):
        assert (reader.folder / file.relative_to(example)).read_text() == file.read_text(), file
