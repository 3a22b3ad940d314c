"""The code blocks of a page: finds them, and follows them as a reader would.

A block with a title is a file; in the language `diff` it is an edit of the file. In a block `console`, a line
after `$ ` is a command, and the lines below it are its output; where a page shows no output, none is compared.
In the output `...` stands for any text within a line, and alone on a line for any lines. Seconds, ports and
spaces may differ, and an id stands for the id that the reader gets. In a command, ID is the id of the newest
prediction. A command whose output begins with `error:` must fail. One that runs until Ctrl-C is interrupted
when it has printed what stands above the line `^C`. Commands in `sh` run too; their output is not shown.
`export` holds for all commands that follow. Of `pip install 'headrace[...]'` the extras must exist. The Python
blocks of a page run in one process and share their names; a block in an HTML comment runs too, so a page may
define what it need not show.

A comment above a block may say what is done with it instead:

- `<!-- not run: REASON -->`: it is not run;
- `<!-- excerpt of PATH -->`: each of its lines stands in that file, or in a page of that folder, which is run;
- `<!-- run in PLACE -->`: it is run by the test that follows the page in this place (`PLACES`), and only there.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from importlib.metadata import metadata
from pathlib import Path

import click
from tests.docs.python_session import PythonSession
from tests.until import until

BLOCK = re.compile(r"^```(\w+)(?: title=\"(.*?)\")?\n(.*?)^```", re.MULTILINE | re.DOTALL)
NOT_RUN = re.compile(r"^<!-- not run: ([^\n]+) -->\n```.*?^```", re.MULTILINE | re.DOTALL)
EXCERPT = re.compile(r"^<!-- excerpt of (\S+) -->\n```\w+\n(.*?)^```", re.MULTILINE | re.DOTALL)
ELSEWHERE = re.compile(r"^<!-- run in (\w+) -->\n((?:<!--\n)?```.*?^```\n)", re.MULTILINE | re.DOTALL)
PLACES = {
    "capture": "e2e/test_changes.py",
    "churn": "e2e/test_demo_churn.py",
    "connect": "e2e/test_changes.py",
    "multi_python": "e2e/test_demo_multi_python.py",
    "secured": "log/test_kafka_security.py",
    "stores": "docs/test_tutorial.py",
    "tokens": "serving/test_endpoint.py",
    "traces": "docs/test_tutorial.py",
    "triton": "docs/test_guide.py",
}
"""Place → the test that follows pages there."""
PORT = re.compile(r"http://127\.0\.0\.1:(\d+)")
PORTS = ("8100", "8101", "8102")  # where a page does not show them
PORT_VARIABLES = ("HEADRACE_PREDICT_PORT", "HEADRACE_COLLECTOR_PORT", "HEADRACE_CONSOLE_PORT")
FOLLOWS_CHANGES = re.compile("headrace (predict|shadows|why)|curl .*Bearer")
ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def select_blocks(text: str, place: str = "") -> str:
    """The text of a page with the blocks that run in this place; by default those that name no place."""
    if place:
        return "".join(block for name, block in ELSEWHERE.findall(text) if name == place)
    for pattern in (NOT_RUN, EXCERPT, ELSEWHERE):
        text = pattern.sub("", text)
    return text


def find_blocks(text: str, *languages: str) -> Iterator[str]:
    """The text of each block in one of these languages."""
    for language, _, block in BLOCK.findall(text):
        if language in languages:
            yield block


def edit_file(file: Path, diff: str) -> None:
    """Edits a file by a diff: lines of context, and lines after `-` and `+`; a line `@@` divides two edits."""
    text = file.read_text()
    for hunk in re.split(r"^@@.*\n", diff, flags=re.MULTILINE):
        lines = [line or " " for line in hunk.splitlines()]
        old, new = ("".join(line[1:] + "\n" for line in lines if line[0] in kept) for kept in (" -", " +"))
        assert text.count(old) == 1, f"{file}:\n{old}"
        text = text.replace(old, new)
    file.write_text(text)


def parse(command: click.Command, arguments: list[str]) -> None:
    """Parses the arguments as the command line does, and calls nothing."""
    if isinstance(command, click.Group):
        inner = command.get_command(click.Context(command), arguments[0])
        assert inner is not None
        parse(inner, arguments[1:])
    else:
        command.make_context(command.name, list(arguments))


class Reader:
    """Follows pages in one folder.

    Args:
        folder: an empty folder.
        instead: command of a page → the command to run instead, such as one with less data, the first time.
        addresses: text of a page, such as the address of a server → what stands for it here.
        python: the interpreter of the Python blocks; by default this one.
        environment: variables of the commands' environment, beside those of this process. They count more than
            those that a page exports.
    """

    def __init__(
        self,
        folder: Path,
        instead: Mapping[str, str] | None = None,
        *,
        addresses: Mapping[str, str] | None = None,
        python: Path = Path(sys.executable),
        **environment: str,
    ) -> None:
        self.folder = folder
        self._instead = dict(instead or {})
        self._addresses = dict(addresses or {})
        self._interpreter = python
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self._given = {"PATH": path, **environment}
        self._environment = {**os.environ, **self._given}
        self._ports: dict[str, str] = {}  # port in the pages → port of the server
        self._ids: dict[str, str] = {}
        self._newest_id = "ID"
        self._server: subprocess.Popen[bytes] | None = None
        self._log = folder / "up.log"
        self._python: PythonSession | None = None

    def follow(self, page: Path, place: str = "") -> None:
        """Does what the page says.

        Args:
            page: the page.
            place: one of `PLACES`, whose blocks alone run; by default those that name none.

        Raises:
            AssertionError: a command fails, or prints something else than the page shows.
        """
        is_begun = False
        for language, title, block in BLOCK.findall(select_blocks(page.read_text(), place)):
            if title and language == "diff":
                edit_file(self.folder / title, block)
            elif title:
                (self.folder / title).write_text(self._replace(block))
            elif language == "python":
                python = self._open_python()
                if not is_begun:
                    python.begin_page()
                is_begun = True
                python.run(self._replace(block))
            elif language in {"console", "sh"}:
                for command, output in split_commands(block) if language == "console" else split_lines(block):
                    self.run(command, output, page.name)

    def url(self, server: int) -> str:
        """The address of a server of `headrace up`: 0 the endpoint, 1 the collector, 2 the console."""
        return f"http://127.0.0.1:{self._ports[PORTS[server]]}"

    def which(self, program: str) -> Path:
        """The file of a program that the commands call."""
        done = self._call(f"command -v {program}")
        assert done.returncode == 0, program
        return Path(done.stdout.strip())

    def stop(self) -> int | None:
        """Ends the server that a page started, and Python; returns the server's exit code."""
        if self._python is not None:
            self._python.close()
        if self._server is None:
            return None
        self._server.send_signal(signal.SIGINT)
        return self._server.wait(180)

    def run(self, command: str, output: str, page: str) -> None:
        """Runs a command of a page; compares what it prints, if the page shows that.

        Raises:
            AssertionError: the command fails, or prints something else.
        """
        command = self._replace(self._instead.pop(command, command))
        if command.startswith("cd "):
            self.folder = (self.folder / command.removeprefix("cd ")).resolve()
        elif command.startswith("export "):
            self._export(command)
        elif command.startswith("pip install "):
            check_extras(command)
        elif command == "headrace up":
            self._start(output)
        elif "^C\n" in output:
            self._interrupt(command, output)
        else:
            where, fails = f"{page}: {command}", output.startswith("error:")
            # What is asked follows an event, or a new token, within a second or so: a reader would ask again.
            deadline = time.monotonic() + (180 if FOLLOWS_CHANGES.match(command) else 0)
            while True:
                done = self._call(command)
                printed = done.stderr if fails else done.stdout
                if (done.returncode != 0) == fails and self._matches(printed, output):
                    break
                both = done.stdout + done.stderr
                assert time.monotonic() < deadline, f"{where}\nprinted:\n{both}\nshown:\n{output}"
            for newest in re.findall(rf"^id +({ID.pattern}) *$", printed, re.MULTILINE):
                self._newest_id = newest

    def _export(self, command: str) -> None:
        """Sets variables as the shell does; a value `...` stands for a secret, which the test must give."""
        for assignment in shlex.split(command, comments=True)[1:]:
            name, _, value = assignment.partition("=")
            assert value != "..." or name in self._given, f"{command}\nThe test does not give {name}."
            self._environment[name] = self._given.get(name, value)

    def _interrupt(self, command: str, output: str) -> None:
        """Runs a command until it has printed what stands above `^C`, and then presses Ctrl-C."""
        first, _, rest = output.partition("^C\n")
        with tempfile.TemporaryFile("w+") as printed:

            def read() -> str:
                printed.seek(0)
                return printed.read()

            process = subprocess.Popen(
                ["/bin/bash", "-c", command],
                cwd=self.folder,
                env=self._environment,
                stdout=printed,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                until(
                    lambda: process.poll() is not None or self._matches(read(), f"{first}...\n"),
                    f"{command}\ndoes not print:\n{first}",
                )
                assert process.poll() is None, f"{command}\nended by itself, and printed:\n{read()}"
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGINT)
                process.wait(180)
            assert self._matches(read(), first + rest), f"{command}\nprinted:\n{read()}\nshown:\n{output}"

    def _replace(self, text: str) -> str:
        """The command or Python with the reader's own ids, ports and addresses."""
        for shown, used in self._addresses.items():
            text = text.replace(shown, used)
        text = ID.sub(lambda match: self._ids.get(match[0], match[0]), text)
        text = re.sub(r"\bID\b", self._newest_id, text)
        for shown, used in self._ports.items():
            text = text.replace(f"localhost:{shown}", f"localhost:{used}")
        return text

    def _open_python(self) -> PythonSession:
        if self._python is None:
            self._python = PythonSession(self.folder, self._environment, self._interpreter)
        return self._python

    def _call(self, command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["/bin/bash", "-c", command],
            cwd=self.folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )

    def _start(self, output: str) -> None:
        if self._server is not None:  # of a page before
            return
        with self._log.open("wb") as log:
            server = self._server = subprocess.Popen(
                [self.which("headrace"), "up"], cwd=self.folder, env=self._environment, stdout=log, stderr=log
            )
        last = output.splitlines()[-1] if output.strip() else "Stop it with Ctrl-C."
        until(lambda: last in self._log.read_text() or server.poll() is not None, "up does not answer")
        printed = self._log.read_text()
        assert self._matches(printed, output), f"headrace up\nprinted:\n{printed}\nshown:\n{output}"
        self._ports = dict(zip(PORT.findall(output) or PORTS, PORT.findall(printed), strict=True))

    def _matches(self, printed: str, shown: str) -> bool:
        if not shown.strip():
            return True
        match = make_pattern(shown, self._ids).fullmatch(normalise(printed))
        for group, text in match.groupdict().items() if match else ():
            self._ids[group.removeprefix("id_").replace("_", "-")] = text
        return match is not None


def split_commands(block: str) -> Iterator[tuple[str, str]]:
    """Each command of a block `console`, with the output below it."""
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        yield command, output


def split_lines(block: str) -> Iterator[tuple[str, str]]:
    """Each command of a block `sh`, whose output is not shown."""
    for line in block.replace("\\\n", " ").splitlines():
        command = re.sub(r"\s+# .*", "", line).strip()
        if command:
            yield command, ""


def check_extras(command: str) -> None:
    """Asserts that `pip install` names this package, and extras that it has."""
    (requirement,) = shlex.split(command, comments=True)[2:]
    match = re.fullmatch(r"headrace(?:\[([\w,]+)\])?", requirement)
    assert match is not None, command
    extras = set(match[1].split(",")) if match[1] else set()
    assert extras <= set(metadata("headrace").get_all("Provides-Extra") or ()), command


def normalise(text: str) -> str:
    """The text without seconds, ports, empty lines, and spaces that only align it."""
    text = PORT.sub("http://127.0.0.1:PORT", text)
    text = re.sub(r"\d+\.\d+ s\b", "N s", text)
    lines = (re.sub(r"\s+", " ", line).strip() for line in text.splitlines())
    return "".join(f"{line}\n" for line in lines if line)


def make_pattern(shown: str, ids: dict[str, str]) -> re.Pattern[str]:
    """A pattern of the output that a page shows; an id that is seen for the first time is a group."""
    pattern = ""
    seen = dict(ids)
    for line in normalise(shown).splitlines():
        if line == "...":
            pattern += r"(?:.*\n)*?"
            continue
        parts = []
        for text in re.split(f"({ID.pattern})", line):
            if not ID.fullmatch(text):
                parts.append(re.escape(text).replace(re.escape("..."), ".*"))
            elif text in seen:
                parts.append(seen[text])
            else:
                group = "id_" + text.replace("-", "_")
                parts.append(f"(?P<{group}>{ID.pattern})")
                seen[text] = f"(?P={group})"
        pattern += "".join(parts) + r"\n"
    return re.compile(pattern)
