"""Runs: each ends with its outcome, and recorders receive its events in order."""

from __future__ import annotations

import pytest

from headrace.kernel.run import Dataset, RunEvent, current_run, record_with, run


class EventList:
    def __init__(self) -> None:
        self.events: list[RunEvent] = []

    def record(self, event: RunEvent) -> None:
        self.events.append(event)

    def outcomes(self) -> list[tuple[str, str]]:
        return [(event.run.job, event.outcome) for event in self.events]


def test_a_run_starts_and_completes_with_its_inputs_and_outputs() -> None:
    source, output = Dataset("topic", "events"), Dataset("table", "clean", facts={"rows": 3})
    with record_with(EventList()) as recorder, run("table clean", [source]) as table_run:
        table_run.add_output(output)
        table_run.add_facts(rows=3)
        assert current_run() is table_run
    assert recorder.outcomes() == [("table clean", "START"), ("table clean", "COMPLETE")]
    assert (table_run.inputs, table_run.outputs, table_run.facts) == ([source], [output], {"rows": 3})
    assert table_run.ended is not None
    assert table_run.started <= table_run.ended
    assert current_run() is None


def test_a_run_inside_another_is_its_child() -> None:
    with record_with(EventList()) as recorder, run("build") as outer, run("table a") as inner:
        assert inner.parent is outer
    assert recorder.outcomes() == [
        ("build", "START"),
        ("table a", "START"),
        ("table a", "COMPLETE"),
        ("build", "COMPLETE"),
    ]


@pytest.mark.parametrize(("error", "outcome"), [(ValueError, "FAIL"), (KeyboardInterrupt, "ABORT")])
def test_an_error_ends_the_run_and_is_raised_again(error: type[BaseException], outcome: str) -> None:
    with record_with(EventList()) as recorder, pytest.raises(error), run("table a"):
        raise error("broken")
    assert recorder.outcomes()[-1] == ("table a", outcome)
    assert isinstance(recorder.events[-1].error, error)
    assert current_run() is None


def test_a_continuous_job_reports_that_it_runs_at_most_once_in_a_while() -> None:
    with record_with(EventList()) as recorder, run("ingest events") as ingest_run:
        for _ in range(100):
            ingest_run.report_running()
    assert [outcome for _, outcome in recorder.outcomes()] == ["START", "RUNNING", "COMPLETE"]


def test_a_recorder_receives_nothing_after_its_block() -> None:
    with record_with(EventList()) as recorder:
        pass
    with run("table a"):
        pass
    assert recorder.events == []
