"""The errors that a newcomer meets first: each names the next command, or the file to write."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.cli.main import main
from headrace.flows.project.init import init

UNKNOWN = "01a21dc7-88f7-78de-8b6b-1ca5adb5712d"


class Shell:
    def __init__(self, folder: Path, output: pytest.CaptureFixture[str]) -> None:
        self._folder, self._output = folder, output

    def call(self, *words: str) -> tuple[int, str]:
        """The exit code of a command, and all that it prints."""
        with pytest.raises(SystemExit) as ended:
            main([*words, "--project", str(self._folder)])
        printed = self._output.readouterr()
        return int(ended.value.code or 0), printed.out + printed.err


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new project without declarations."""
    return init(tmp_path_factory.mktemp("empty") / "clicks").folder


@pytest.fixture
def empty(folder: Path, capfd: pytest.CaptureFixture[str]) -> Shell:
    return Shell(folder, capfd)


@pytest.mark.parametrize(
    ("command", "code", "next_step"),
    [
        ("status", 0, "say in clicks/events.py what an event is"),
        ("graph", 0, "headrace status"),
        ("build", 0, "headrace status"),
        ("ingest --until-end", 0, "headrace send TOPIC FILE"),
        ("send clicks events.ndjson", 2, "clicks/events.py"),
        ("predict purchase user=1", 1, "headrace up"),
        ("release purchase champion=1", 2, "clicks/models.py"),
        ("check parity", 2, "headrace up"),
        (f"why {UNKNOWN}", 2, "Is this its project and profile?"),
    ],
)
def test_an_empty_project_says_what_is_next(empty: Shell, command: str, code: int, next_step: str) -> None:
    ended, printed = empty.call(*command.split())
    assert next_step in printed
    assert ended == code


def test_status_leads_from_the_contract_to_the_first_table(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    project = init(tmp_path / "taps").folder
    events, file = project / "taps" / "events.py", project / "taps.ndjson"
    events.write_text(
        "from datetime import datetime\n\nfrom headrace import Struct, event\n\n\n"
        '@event(topic="taps", time="at")\nclass Tap(Struct):\n    at: datetime\n'
    )
    file.write_text('{"at": "2026-03-01T00:00:00Z"}\n')
    shell = Shell(project, capfd)
    for command, next_step in (
        (f"send taps {file}", "send a file of them: headrace send taps FILE"),
        ("ingest --until-end", "To ingest them: headrace ingest --until-end"),
        ("build", "say in taps/tables.py what is made of the events"),
    ):
        ended, printed = shell.call("status")
        assert next_step in printed
        assert ("Everything is up to date" in printed, ended) == (False, 0)
        ended, printed = shell.call(*command.split())
        assert ended == 0
    assert "headrace status" in printed


def test_doctor_says_that_a_token_is_needed_where_other_machines_can_ask(
    empty: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_HOST", "0.0.0.0")
    monkeypatch.delenv("HEADRACE_TOKEN", raising=False)
    ended, printed = empty.call("doctor")
    assert "Set HEADRACE_TOKEN in the environment" in printed
    assert ended == 1


def test_outside_of_a_project_init_is_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    ended, printed = Shell(tmp_path, capfd).call("status")
    assert ended == 2
    assert "headrace init" in printed


def test_a_project_that_cannot_be_loaded_is_not_called_empty(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    init(tmp_path / "visits")
    models = tmp_path / "visits" / "visits" / "models.py"
    models.write_text("import feast\n\n1 / 0\n")  # without Feast's modules nothing is declared
    _, printed = Shell(tmp_path / "visits", capfd).call("status")
    assert "Nothing is declared" not in printed
    assert "ZeroDivisionError" in printed
    assert f"{models}:3" in printed


def test_scores_of_a_model_that_was_never_trained_name_the_build(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    init(tmp_path / "payments", "minimal")
    file = tmp_path / "rows.csv"
    file.write_text("card,amount\n1,2.5\n")
    shell = Shell(tmp_path / "payments", capfd)
    ended, printed = shell.call("score", "refusal", str(file))
    assert ended == 2
    assert "headrace build" in printed
    ended, printed = shell.call("build")
    assert ended == 1
    assert "headrace send payments FILE" in printed
