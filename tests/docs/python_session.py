"""Runs Python blocks of pages in a process of its own, which keeps their names and imports.

As a program it reads a block a line, as JSON, and ends the output of each block with a line of its own.
"""

from __future__ import annotations

import json
import linecache
import subprocess
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

__all__ = ["PythonSession"]

PASSED, FAILED = "\x1e passed", "\x1e failed"
MODULE = "page"
NEW_PAGE = "\x1e"  # in place of a block: forget the names


class PythonSession:
    """A process that runs blocks in a folder, one after the other.

    Args:
        folder: the folder.
        environment: the process's environment.
        interpreter: its Python.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str], interpreter: Path) -> None:
        self._process = subprocess.Popen(
            [interpreter, __file__],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, block: str) -> str:
        """Runs a block; returns what it printed.

        Raises:
            AssertionError: the block fails.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(block) + "\n")
        self._process.stdin.flush()
        printed = []
        for line in self._process.stdout:
            if line.startswith(PASSED):
                return "".join(printed)
            if line.startswith(FAILED):
                break
            printed.append(line)
        raise AssertionError(f"{block}\n{''.join(printed)}")

    def begin_page(self) -> None:
        """Forgets the names of the pages before."""
        self.run(NEW_PAGE)

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(180)
        self._process.stdout.close()


def begin_module() -> None:
    """Makes the module anew that has the names of a page: a class finds the types of its fields there."""
    sys.modules[MODULE] = ModuleType(MODULE)


def run_block(block: str) -> None:
    """Runs a block whose text can be read again, as Feast reads the text of functions."""
    file = f"<block {len(linecache.cache)}>"
    linecache.cache[file] = (len(block), None, block.splitlines(keepends=True), file)
    exec(compile(block, file, "exec", dont_inherit=True), vars(sys.modules[MODULE]))


def serve() -> None:
    """Runs the blocks that come."""
    sys.path.insert(0, "")  # the folder is the project, whose package a block may import
    begin_module()
    for line in sys.stdin:
        block = json.loads(line)
        end = PASSED
        try:
            if block == NEW_PAGE:
                begin_module()
            else:
                run_block(block)
        except Exception:
            traceback.print_exc(file=sys.stdout)
            end = FAILED
        sys.stdout.write(f"\n{end}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()
