"""Runs: every one ends as what happened to it, and whoever listens is told in order."""

from __future__ import annotations

import pytest

from headrace.kernel.run import Dataset, RunEvent, current_run, record_with, run


class Told:
    def __init__(self) -> None:
        self.events: list[RunEvent] = []

    def record(self, event: RunEvent) -> None:
        self.events.append(event)

    def outcomes(self) -> list[tuple[str, str]]:
        return [(event.run.job, event.outcome) for event in self.events]


def test_a_run_starts_and_completes_with_its_inputs_and_outputs() -> None:
    source, made = Dataset("topic", "events"), Dataset("table", "clean", facts={"rows": 3})
    with record_with(Told()) as told, run("table clean", [source]) as this:
        this.add_output(made)
        this.add_facts(rows=3)
        assert current_run() is this
    assert told.outcomes() == [("table clean", "START"), ("table clean", "COMPLETE")]
    assert (this.inputs, this.outputs, this.facts) == ([source], [made], {"rows": 3})
    assert this.ended is not None
    assert this.started <= this.ended
    assert current_run() is None


def test_a_run_inside_another_is_its_child() -> None:
    with record_with(Told()) as told, run("build") as outer, run("table a") as inner:
        assert inner.parent is outer
    assert told.outcomes() == [
        ("build", "START"),
        ("table a", "START"),
        ("table a", "COMPLETE"),
        ("build", "COMPLETE"),
    ]


@pytest.mark.parametrize(("error", "outcome"), [(ValueError, "FAIL"), (KeyboardInterrupt, "ABORT")])
def test_an_error_ends_it_and_goes_on(error: type[BaseException], outcome: str) -> None:
    with record_with(Told()) as told, pytest.raises(error), run("table a"):
        raise error("broken")
    assert told.outcomes()[-1] == ("table a", outcome)
    assert isinstance(told.events[-1].error, error)
    assert current_run() is None


def test_a_continuous_job_says_that_it_goes_on_at_most_once_a_while() -> None:
    with record_with(Told()) as told, run("ingest events") as this:
        for _ in range(100):
            this.report_running()
    assert [outcome for _, outcome in told.outcomes()] == ["START", "RUNNING", "COMPLETE"]


def test_who_no_longer_listens_is_not_told() -> None:
    with record_with(Told()) as told:
        pass
    with run("table a"):
        pass
    assert told.events == []
