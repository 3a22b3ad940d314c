"""The project: its declarations by name, and the errors for declarations that contradict each other."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace.config.settings import load_settings
from headrace.kernel.errors import CallError, ProjectError
from headrace.projects.project import Project, load_project

NAME = "declared_project"
HEAD = """
from datetime import datetime
import dataframely as dy
from headrace import Model, Struct, XGBoost, event, source, table

@event(topic="clicks", time="at")
class Click(Struct):
    at: datetime
"""

EVENT = """
@event(topic="{1}", time="at")
class {0}(Struct):
    at: datetime
"""
CHANGES = """
from headrace import changes

@changes(topic="shop.public.rows", key=["id"])
class Row(Struct):
    id: int
"""


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "headrace.toml").write_text(f'[project]\nname = "{NAME}"\n')
    (tmp_path / NAME).mkdir()
    before = list(sys.path)
    yield tmp_path
    sys.path[:] = before
    for name in [module for module in sys.modules if module.split(".")[0] == NAME]:
        del sys.modules[name]


def load(root: Path, text: str) -> Project:
    (root / NAME / "__init__.py").write_text(HEAD + text)
    return load_project(load_settings(root))


def test_a_source_that_is_declared_within_its_table_is_listed(root: Path) -> None:
    project = load(
        root,
        """
@table(reads=source("stock", "stock.csv"))
def first(stock): return stock
""",
    )
    assert project.sources["stock"] is project.tables["first"].reads[0]


def test_each_declaration_is_listed_once_after_what_it_reads(root: Path) -> None:
    project = load(
        root,
        """
@table(reads="second")
def first(rows):
    return rows

@table(reads=Click)
def second(events):
    return events

again = second
files = source("files", "data.csv")
""",
    )
    assert list(project.contracts) == ["clicks"]
    assert list(project.tables) == ["second", "first"]
    assert list(project.sources) == ["files"]
    assert project.inputs(project.table("first")) == [project.table("second")]
    with pytest.raises(CallError, match="table 'third' does not exist") as caught:
        project.table("third")
    assert "first, second" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("@table(reads='nothing')\ndef a(rows): return rows\n", "reads 'nothing', which does not exist"),
        (
            "@table(reads='b')\ndef a(rows): return rows\n@table(reads='a')\ndef b(rows): return rows\n",
            "in a cycle: a → b → a",
        ),
        ("@table(reads=Click)\ndef clicks(rows): return rows\n", "like the table of topic 'clicks'"),
        ("@table(reads=Click)\ndef Clicks(rows): return rows\n", "like the table of topic 'clicks'"),
        (
            EVENT.format("A", "a.b") + EVENT.format("B", "a-b"),
            "the table of topic 'a-b' would be 'a_b' in the lake, like the table of topic 'a.b'",
        ),
        (EVENT.format("A", "x.Y") + EVENT.format("B", "x.y"), "like the table of topic 'x.Y'"),
        (EVENT.format("A", "headrace.alerts"), "is reserved for Headrace"),
        ("@table(reads=Click)\ndef headrace_predictions(rows): return rows\n", "is reserved for Headrace"),
        (
            CHANGES + "@table(reads=Click)\ndef shop_public_rows_current(rows): return rows\n",
            "'shop_public_rows_current' is declared twice",
        ),
        (CHANGES + EVENT.format("A", "shop.public.rows_current"), "like the table of topic"),
        (
            (
                "@table(reads=Click)\ndef labels(rows): return rows\n"
                "@table(reads=Click)\ndef training_m(rows): return rows\n"
                "m = Model('m', labels=labels, target='bought', features=None, trainer=XGBoost())\n"
            ),
            "the training set of model 'm' would be 'training_m' in the lake, like table 'training_m'",
        ),
        ("a = source('a', 'x.csv')\nb = source('a', 'y.csv')\n", "source 'a' is declared twice"),
        (
            "@table(reads=Click)\ndef a(rows): return rows\ns = source('a', 'x.csv')\n",
            "has the name of a table",
        ),
        (
            (
                "class L(dy.Schema):\n    event_timestamp = dy.Datetime()\n"
                "@table(reads=Click, schema=L)\ndef labels(rows): return rows\n"
                "m = Model('m', labels=labels, target='bought', features=None, trainer=XGBoost())\n"
            ),
            "needs column 'bought'",
        ),
    ],
)
def test_contradicting_declarations_are_reported_with_their_place(root: Path, text: str, message: str) -> None:
    with pytest.raises(ProjectError) as caught:
        load(root, text)
    assert message in str(caught.value)
    assert "__init__.py" in str(caught.value.where)
