"""The command line in a separate process: help, wrong calls, wrong projects."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from tests.tiny import write

from headrace.cli.call import Call, print_error
from headrace.cli.main import COMMANDS, cli

Headrace = Callable[..., "subprocess.CompletedProcess[str]"]
HEAVY = ("ray", "feast", "mlflow", "polars", "pyarrow", "pyiceberg", "pandas", "xgboost", "dvc", "rich")


@pytest.mark.parametrize(
    "script", ["import headrace", "from headrace.cli.main import cli; cli(['--help'], standalone_mode=False)"]
)
def test_importing_and_help_load_nothing_heavy(script: str) -> None:
    loaded = f"{script}; import sys; print(*sorted(n for n in {HEAVY} if n in sys.modules))"
    out = subprocess.run(
        [sys.executable, "-c", loaded], capture_output=True, text=True, check=True, timeout=300
    )
    assert out.stdout.splitlines()[-1] == ""


def run_and_list_loaded(arguments: list[str], modules: tuple[str, ...], project: Path) -> list[str]:
    """Runs a command in a separate process; returns its lines of output. The last names the loaded modules."""
    script = (
        "import sys\nfrom headrace.cli.main import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit as end:\n    assert end.code == 0, end.code\n"
        f"print(*sorted(n for n in {modules} if n in sys.modules))"
    )
    out = subprocess.run(
        [sys.executable, "-c", script], cwd=project, capture_output=True, text=True, check=True, timeout=300
    )
    return out.stdout.splitlines()


def test_nothing_to_do_loads_nothing_heavy(project: Path, headrace: Headrace) -> None:
    assert headrace("build", cwd=project).returncode == 0
    lines = run_and_list_loaded(["build"], HEAVY, project)
    assert lines[0].startswith("Nothing to do")
    assert lines[-1] == ""


def test_a_table_is_tagged_and_its_versions_are_listed(project: Path, headrace: Headrace) -> None:
    assert headrace("build", cwd=project).returncode == 0
    tagged = headrace("tag-table", "doubled", "v1", cwd=project)
    assert re.fullmatch(r"v1 names snapshot \d+ of doubled: 2 rows of \S+ \S+ UTC\.\n", tagged.stdout), tagged
    (project / "data" / "prices.csv").write_text("price\n3\n")
    assert headrace("build", cwd=project).returncode == 0
    versions = json.loads(headrace("table-versions", "doubled", "--json", cwd=project).stdout)
    assert [(version["rows"], version["tags"]) for version in versions] == [(2, ["v1"]), (1, [])]
    for at in (str(versions[0]["snapshot"]), versions[0]["at"], "v1"):
        again = headrace("tag-table", "doubled", "v1", "--at", at, cwd=project)
        assert again.returncode == 0, again.stderr
    assert "names another snapshot" in headrace("tag-table", "doubled", "v1", cwd=project).stderr
    assert "v1" in headrace("table-versions", "doubled", cwd=project).stdout
    assert headrace("untag-table", "doubled", "v1", cwd=project).stdout == "Removed tag v1 from doubled.\n"
    assert "tag 'v1' does not exist" in headrace("untag-table", "doubled", "v1", cwd=project).stderr


def test_lineage_leads_from_a_table_to_its_file(project: Path, headrace: Headrace) -> None:
    assert headrace("build", cwd=project).returncode == 0
    lines = [line.split("  by ") for line in headrace("lineage", "total", cwd=project).stdout.splitlines()]
    names = [re.sub(r"\d{5,}", "N", name) for name, *_ in lines]
    assert names == ["table total", "  table doubled at snapshot N", "    file data/prices.csv"]
    assert [by[0].split(",")[:2] for _, *by in lines[:2]] == [
        ["table total", " COMPLETE"],
        ["table doubled", " COMPLETE"],
    ]
    tree = json.loads(headrace("lineage", "total", "--json", cwd=project).stdout)
    assert tree["beyond"][0]["beyond"][0]["dataset"]["name"] == "data/prices.csv"
    runs = json.loads(headrace("lineage", "--json", cwd=project).stdout)
    assert {run["job"] for run in runs} >= {"build", "table total", "table doubled"}
    assert {run["outcome"] for run in runs} == {"COMPLETE"}
    assert "table doubled" in headrace("lineage", cwd=project).stdout
    assert "no run that wrote 'nothing'" in headrace("lineage", "nothing", cwd=project).stderr


# rich prints tables, and dvc reads dvc.lock once a stage is stale.
@pytest.mark.parametrize(("stale", "allowed"), [(False, {"rich"}), (True, {"rich", "dvc"})])
def test_status_loads_no_engine(project: Path, headrace: Headrace, stale: bool, allowed: set[str]) -> None:
    assert headrace("build", cwd=project).returncode == 0
    if stale:
        (project / "data" / "prices.csv").write_text("price\n3\n")
    lines = run_and_list_loaded(["status"], (*HEAVY, "dvc.repo"), project)
    assert any("table-doubled" in line for line in lines) is stale
    assert set(lines[-1].split()) == allowed


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in ("run-stage",)])
def test_each_command_has_help_with_an_example(name: str) -> None:
    context = click.Context(cli, info_name="headrace")
    command = cli.get_command(context, name)
    assert command is not None
    commands = list(command.commands.values()) if isinstance(command, click.Group) else [command]
    for command in commands:
        text = command.get_help(click.Context(command, info_name=command.name))
        assert command.help
        assert "Example:\n    headrace " in text
        assert {"--json", "--profile", "--project", "--debug"} <= {o for p in command.params for o in p.opts}


def test_an_unknown_command_is_answered_with_a_similar_one(headrace: Headrace) -> None:
    out = headrace("biuld")
    assert out.returncode == 2
    assert out.stderr == "error: 'biuld' is not a command of headrace\n  Did you mean 'build'?\n"


def test_a_wrong_option_is_answered_with_the_help_command(headrace: Headrace) -> None:
    out = headrace("build", "--fast")
    assert out.returncode == 2
    assert "--fast" in out.stderr
    assert "headrace build --help" in out.stderr


TINY = '[project]\nname = "tiny"\n'
WRONG_CALLS = {
    "unknown setting": (
        {"headrace.toml": f'{TINY}[profile.local]\nonlin = "sqlite"\n'},
        ["status"],
        ["setting 'onlin' does not exist", "headrace.toml", "Did you mean 'online'?"],
    ),
    "wrong type": (
        {"headrace.toml": f'{TINY}[profile.local]\npredict_port = "x"\n'},
        ["status"],
        ["headrace.toml: profile.local.predict_port"],
    ),
    "no TOML": ({"headrace.toml": "[project\n"}, ["status"], ["not valid TOML", "headrace.toml"]),
    "unknown profile": ({}, ["build", "--profile", "prod"], ["profile 'prod'", "[profile.prod]"]),
    "cycle": (
        {
            "tiny/tables.py": "from headrace import table\n@table(reads='b')\ndef a(x): ...\n"
            "@table(reads='a')\ndef b(x): ...\n"
        },
        ["build"],
        ["in a cycle"],
    ),
    "reads nothing": (
        {"tiny/tables.py": "from headrace import table\n@table(reads='lost')\ndef a(x): ...\n"},
        ["build"],
        ["reads 'lost', which does not exist", "tables.py:2"],
    ),
    "syntax": ({"tiny/tables.py": "def a(:\n"}, ["build"], ["tables.py:1"]),
    "does not import": ({"tiny/tables.py": "x = 1\nimport nowhere\n"}, ["build"], ["nowhere", "tables.py:2"]),
    "bad target": ({}, ["build", "nothing_here"], ["'nothing_here' is not a table", "doubled, prices, total"]),
    "unknown topic": ({}, ["send", "lost", "data/prices.csv"], ["'lost'"]),
    "no value": ({}, ["predict", "m", "user_id"], ["'user_id' is not KEY=VALUE"]),
    "two values": ({}, ["predict", "m", "user_id=5", "user_id=6"], ["'user_id' has two values: '5' and '6'"]),
    "unknown model": ({}, ["release", "lost", "champion=1"], ["model 'lost' does not exist", "declares none"]),
    "canary options without steps": (
        {},
        ["release", "lost", "champion=1", "--better", "higher"],
        ["--better is for a canary", "--steps"],
    ),
    "missing source": ({"data/prices.csv": None}, ["build"], ["prices", "data"]),
}


@pytest.mark.parametrize("name", WRONG_CALLS)
def test_a_wrong_project_or_call_gets_one_clear_message(name: str, project: Path, headrace: Headrace) -> None:
    files, arguments, expected = WRONG_CALLS[name]
    for path, text in files.items():
        if text is None:
            (project / path).unlink()
        else:
            (project / path).write_text(text)
    out = headrace(*arguments, cwd=project)
    assert out.returncode == 2, out.stderr
    assert "Traceback" not in out.stderr
    assert out.stderr.count("error:") == 1
    for text in expected:
        assert text in out.stderr


def test_debug_shows_the_traceback(project: Path, headrace: Headrace) -> None:
    assert "Traceback" in headrace("status", "--profile", "prod", "--debug", cwd=project).stderr


def test_without_a_project_the_error_names_init(tmp_path: Path, headrace: Headrace) -> None:
    out = headrace("status", cwd=tmp_path)
    assert out.returncode == 2
    assert "headrace init" in out.stderr


def test_with_json_an_error_is_one_object(tmp_path: Path, headrace: Headrace) -> None:
    out = headrace("status", "--json", cwd=tmp_path)
    assert out.returncode == 2
    assert set(json.loads(out.stderr)) == {"error", "where", "remedy"}


def test_with_json_a_panic_of_polars_is_one_object(project: Path, headrace: Headrace) -> None:
    (project / "tiny" / "tables.py").write_text(
        "import polars\nraise polars.exceptions.PanicException('Rust')\n"
    )
    out = headrace("build", "--json", cwd=project)
    assert out.returncode == 1
    assert json.loads(out.stderr)["error"] == "PanicException: Rust"


def test_status_shows_other_tables_if_a_source_has_no_file(project: Path, headrace: Headrace) -> None:
    (project / "data" / "prices.csv").unlink()
    out = headrace("status", cwd=project)
    assert out.returncode == 0
    assert "source 'prices' has no files" in out.stdout
    assert "doubled" in out.stdout


def test_a_table_can_be_dropped_once_nothing_reads_it(project: Path, headrace: Headrace) -> None:
    assert headrace("build", cwd=project).returncode == 0
    refused = headrace("drop-table", "doubled", "--yes", cwd=project)
    assert (refused.returncode, "table 'doubled' is read by table total" in refused.stderr) == (1, True)
    unknown = headrace("drop-table", "nothing", "--yes", cwd=project)
    assert (unknown.returncode, "Choose one: doubled, total." in unknown.stderr) == (2, True)

    tables = project / "tiny" / "tables.py"
    tables.write_text(tables.read_text().replace("def total", "def whole"))
    assert headrace("build", cwd=project).returncode == 0
    assert json.loads(headrace("status", "--json", cwd=project).stdout)["undeclared"] == ["total"]
    assert "headrace drop-table total" in headrace("status", cwd=project).stdout
    for options in ([], ["--json"]):
        unanswered = headrace("drop-table", "total", *options, cwd=project)
        assert (unanswered.returncode, "--yes" in unanswered.stderr, unanswered.stdout) == (2, True, "")
    dropped = headrace("drop-table", "total", "--yes", "--json", cwd=project)
    assert (dropped.returncode, json.loads(dropped.stdout)) == (0, {"dropped": "total"})
    assert json.loads(headrace("status", "--json", cwd=project).stdout)["undeclared"] == []
    assert not (project / "pointers" / "tables" / "total.json").exists()
    assert "table-total" not in (project / "dvc.lock").read_text()
    assert "table-doubled" in (project / "dvc.lock").read_text()
    assert "Nothing to do" in headrace("build", cwd=project).stdout

    # A table that is still declared is built again.
    assert headrace("drop-table", "whole", "--yes", cwd=project).returncode == 0
    assert "table-whole" in headrace("build", cwd=project).stdout


def test_options_are_accepted_before_and_after_the_verb(
    project: Path, tmp_path: Path, headrace: Headrace
) -> None:
    before = headrace("--json", "--project", str(project), "build", "--dry-run", cwd=tmp_path)
    after = headrace("build", "--dry-run", "--json", "--project", str(project), cwd=tmp_path)
    stages = [stage["stage"] for stage in json.loads(before.stdout)["stages"]]
    assert stages == ["table-doubled", "table-total"]
    assert json.loads(after.stdout)["stages"] == json.loads(before.stdout)["stages"]


@pytest.mark.parametrize("arguments", [["quarantine", "list"], ["check", "contracts"], ["export", "airflow"]])
def test_a_group_takes_the_options_too(arguments: list[str], project: Path) -> None:
    verb, name = arguments
    with cli.make_context(
        "headrace", [verb, "--json", "--project", str(project), name, "--help"], obj=Call()
    ) as context:
        group = cli.get_command(context, verb)
        assert group is not None
        group.make_context(verb, ["--json", "--project", str(project), name], parent=context)
        assert (context.obj.json, context.obj.project) == (True, project)


def test_a_full_disk_is_reported_as_a_full_disk(capsys: pytest.CaptureFixture[str]) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("there is no /dev/full here")
    for as_json in (False, True):
        with pytest.raises(OSError, match="No space left") as error, full.open("w") as file:
            file.write("x")
        print_error(Call(json=as_json), error.value)
        output = capsys.readouterr().err
        assert "No space left on device" in output
        assert "Make room on the disk" in output
        assert "foresee" not in output


def test_only_this_user_can_read_the_state(tmp_path: Path, headrace: Headrace) -> None:
    event = (
        "from datetime import datetime\nfrom headrace import Struct, event\n"
        "@event(topic='clicks', time='at')\nclass Click(Struct):\n    at: datetime\n"
    )
    root = write(tmp_path / "project", event)
    (root / "clicks.ndjson").write_text('{"at": "2026-01-01T00:00:00Z"}\n')
    for arguments in (["send", "clicks", "clicks.ndjson"], ["ingest", "--until-end"], ["status"]):
        out = headrace(*arguments, cwd=root)
        assert out.returncode == 0, out.stderr
    state = root / ".headrace"
    assert (state / "local" / "log").is_dir()
    assert [str(path) for path in (state, *state.rglob("*")) if path.stat().st_mode & 0o077] == []
    assert "state folder" not in headrace("doctor", cwd=root).stdout
    (state / "local").chmod(0o755)
    output = headrace("doctor", cwd=root).stdout
    assert f"chmod 700 {state / 'local'}" in output.replace("\n", "")


def test_a_disk_without_room_for_a_temporary_file_is_no_bug() -> None:
    code = """
import resource, tempfile
from headrace.cli.call import Call, print_error
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
try:
    tempfile.gettempdir()
except OSError as error:
    print_error(Call(), error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300)
    assert "No usable temporary directory found" in done.stderr
    assert "Make room on the disk" in done.stderr
    assert "bug" not in done.stderr
