"""Tables of the guide whose rows are names and defaults of the code: both are compared."""

from __future__ import annotations

import ast
import inspect
import re
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import attrs
import msgspec
import pytest

from headrace import Alerts, changes, event
from headrace.config.http import HttpSettings
from headrace.config.schedules import parse_schedules
from headrace.config.serving import ServingSettings
from headrace.config.settings import PARTS
from headrace.events.contracts.shape import CODES
from headrace.features.aggregates import SPELLINGS
from headrace.flows.build.reasons import ReasonKind
from headrace.kernel.time import parse_duration

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
OF_TESTS = {"HEADRACE_FAULT"}  # makes a process die at a named point


def read_table(page: str, head: str) -> list[list[str]]:
    """The cells of each row of the only table of a page whose head begins so."""
    (rows,) = re.findall(
        rf"^\| {re.escape(head)}.*\n\|(?: -+ \|)+\n((?:\|.*\n)+)", (DOCS / page).read_text(), re.MULTILINE
    )
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows.splitlines()]


def names_of(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def to_default(text: str) -> Any:
    """The value that a cell of a table writes as a default."""
    if text in ("", "none"):
        return None
    value = text.strip("`")
    return (
        Alerts()
        if value == "Alerts()"
        else ast.literal_eval(value.replace(",", "") if value[0].isdigit() else value)
    )


def normalize(value: Any) -> Any:
    """Durations as timedeltas, days as text, and what is empty as None."""
    if isinstance(value, str) and re.fullmatch(r"\d+[smhd]", value):
        return parse_duration(value)
    if isinstance(value, datetime):
        return f"{value:%F}"
    if isinstance(value, tuple | list):
        return list(value) or None
    return value or None if isinstance(value, dict) else value


def find_shown_defaults(page: str) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    for names, default, _ in read_table(page, "argument"):
        defaults = default.split(", ") if len(names_of(names)) > 1 and ", " in default else None
        for number, name in enumerate(names_of(names)):
            shown[name] = normalize(to_default(defaults[number] if defaults else default))
    return shown


def test_the_guide_says_the_defaults_of_a_contract() -> None:
    actual = {}
    for field in attrs.fields(event):
        default = field.default.factory() if isinstance(field.default, attrs.Factory) else field.default  # type: ignore[arg-type]
        actual[field.name] = None if default is attrs.NOTHING else normalize(default)
    assert find_shown_defaults("guide/contracts.md") == actual


def test_the_guide_says_the_defaults_of_a_changelog() -> None:
    parameters = inspect.signature(changes).parameters
    actual = {
        name: None if parameter.default is inspect.Parameter.empty else normalize(parameter.default)
        for name, parameter in parameters.items()
    }
    assert find_shown_defaults("guide/changes.md") == actual


@pytest.mark.parametrize(
    ("page", "head", "column", "settings"),
    [
        ("guide/serving.md", "setting of the profile", 1, ServingSettings),
        ("guide/serving.md", "server", 2, HttpSettings),
    ],
)
def test_the_guide_says_the_defaults_of_settings(page: str, head: str, column: int, settings: Any) -> None:
    defaults = {field.encode_name: field.default for field in msgspec.structs.fields(settings)}
    for row in read_table(page, head):
        (name,) = names_of(row[column if head == "server" else 0])
        (number,) = re.findall(r"[\d,]+", row[1])
        assert int(number.replace(",", "")) == defaults[name], name


def test_the_guide_says_the_defaults_of_a_schedule() -> None:
    text = (DOCS / "guide" / "schedules.md").read_text()
    (schedule,) = parse_schedules({"nightly": {"topics": ["clicks"]}}, "local", ["local"], "headrace.toml")
    assert f"is tried again ({schedule.retries})" in text
    assert schedule.retry_delay == timedelta(minutes=1)
    assert "after `1m`, then each time after twice as long" in text
    assert schedule.every == timedelta(minutes=1)
    assert "# but at most this often; 1m by default" in text


def test_the_guide_lists_the_codes_of_refusals() -> None:
    text = (DOCS / "guide" / "events.md").read_text()
    (codes,) = re.findall(r"The codes are\n\n((?:`.*\n)+)", text)
    assert set(names_of(codes)) == set(CODES)


def test_the_guide_lists_the_aggregate_functions() -> None:
    shown = [name for row in read_table("guide/features.md", "function | over") for name in names_of(row[0])]
    assert {re.sub(r"\(.\)", "(n)", name) for name in shown} == set(SPELLINGS)


def test_the_page_on_stale_builds_lists_the_reasons() -> None:
    rows = read_table("how-to/debug_a_stale_build.md", "reason")
    assert {names_of(row[0])[0].partition(":")[0] for row in rows} == set(get_args(ReasonKind))


def test_the_reference_lists_the_variables() -> None:
    source = "\n".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    read = set(re.findall(r"[\"'](HEADRACE_[A-Z_]+[A-Z])[\"']", source))
    settings = {
        f"HEADRACE_{field.encode_name.upper()}"
        for part in PARTS.values()
        for field in msgspec.structs.fields(part)
    }
    listed = (DOCS / "reference" / "environment.md").read_text()
    not_listed = {name for name in read - settings - OF_TESTS if name not in listed}
    assert {name for name in not_listed if not name.startswith("HEADRACE_KAFKA_")} == set()
