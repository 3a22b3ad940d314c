"""The code blocks of a page: finds them, and follows them as a reader would.

A block with a title is a file; in the language `diff` it is an edit of the file. In a block `console`, a line
after `$ ` is a command, and the lines below it are its output; where a page shows no output, none is compared.
In the output `...` stands for any text within a line, and alone on a line for any lines. Seconds, ports and
spaces may differ, and an id stands for the id that the reader gets. In a command, ID is the id of the newest
prediction. A command whose output begins with `error:` must fail. The Python blocks of a page run in one
process and share their names; a block in an HTML comment runs too, so a page may define what it need not show.

A block below the comment `<!-- not run: REASON -->` is not run.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import click
from tests.docs.python_session import PythonSession
from tests.until import until

BLOCK = re.compile(r"^```(\w+)(?: title=\"(.*?)\")?\n(.*?)^```", re.MULTILINE | re.DOTALL)
NOT_RUN = re.compile(r"^<!-- not run: ([^\n]+) -->\n```.*?^```", re.MULTILINE | re.DOTALL)
PORT = re.compile(r"http://127\.0\.0\.1:(\d+)")
PORTS = ("8100", "8101", "8102")  # where a page does not show them
PORT_VARIABLES = ("HEADRACE_PREDICT_PORT", "HEADRACE_COLLECTOR_PORT", "HEADRACE_CONSOLE_PORT")
FOLLOWS_EVENTS = ("headrace predict", "headrace shadows")
ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


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
        environment: variables of the commands' environment, beside those of this process.
    """

    def __init__(self, folder: Path, instead: Mapping[str, str] | None = None, **environment: str) -> None:
        self.folder = folder
        self._instead = dict(instead or {})
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self._environment = {**os.environ, "PATH": path, **environment}
        self._ports: dict[str, str] = {}  # port in the pages → port of the server
        self._ids: dict[str, str] = {}
        self._newest_id = "ID"
        self._server: subprocess.Popen[bytes] | None = None
        self._log = folder / "up.log"
        self._python: PythonSession | None = None

    def follow(self, page: Path, *more: str) -> None:
        """Does what the page says.

        Args:
            page: the page.
            more: further languages to run: `sh`, commands whose output is not shown.

        Raises:
            AssertionError: a command fails, or prints something else than the page shows.
        """
        is_begun = False
        for language, title, block in BLOCK.findall(NOT_RUN.sub("", page.read_text())):
            if title and language == "diff":
                edit_file(self.folder / title, block)
            elif title:
                (self.folder / title).write_text(block)
            elif language == "python":
                python = self._open_python()
                if not is_begun:
                    python.begin_page()
                is_begun = True
                python.run(self._replace(block))
            elif language == "console" or language in more:
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
        return self._server.wait(60)

    def run(self, command: str, output: str, page: str) -> None:
        """Runs a command of a page; compares what it prints, if the page shows that.

        Raises:
            AssertionError: the command fails, or prints something else.
        """
        command = self._replace(self._instead.pop(command, command))
        if command.startswith("cd "):
            self.folder = (self.folder / command.removeprefix("cd ")).resolve()
        elif command == "headrace up":
            self._start(output)
        else:
            where, fails = f"{page}: {command}", output.startswith("error:")
            # What is asked follows an event within a second or so: a reader would ask again.
            deadline = time.monotonic() + (60 if command.startswith(FOLLOWS_EVENTS) else 0)
            while True:
                done = self._call(command)
                printed = done.stderr if fails else done.stdout
                if (done.returncode != 0) == fails and self._matches(printed, output):
                    break
                both = done.stdout + done.stderr
                assert time.monotonic() < deadline, f"{where}\nprinted:\n{both}\nshown:\n{output}"
            for newest in re.findall(rf"^id +({ID.pattern}) *$", printed, re.MULTILINE):
                self._newest_id = newest

    def _replace(self, text: str) -> str:
        """The command or Python with the reader's own ids and ports."""
        text = ID.sub(lambda match: self._ids.get(match[0], match[0]), text)
        text = re.sub(r"\bID\b", self._newest_id, text)
        for shown, used in self._ports.items():
            text = text.replace(f"localhost:{shown}", f"localhost:{used}")
        return text

    def _open_python(self) -> PythonSession:
        if self._python is None:
            self._python = PythonSession(self.folder, self._environment)
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
        until(lambda: last in self._log.read_text() or server.poll() is not None, "up does not answer", 180)
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
