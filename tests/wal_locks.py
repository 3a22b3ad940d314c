"""A process that holds the locks of a SQLite file's WAL index."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Bytes 120 to 127 of the index are its locks: https://sqlite.org/walformat.html#the_wal_index_file_format
_HOLD = """
import fcntl, sys
index = open(sys.argv[1], "r+b")
fcntl.lockf(index, fcntl.LOCK_EX, 8, 120)
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def hold_wal_locks(database: Path) -> Iterator[None]:
    """While the block runs, no process can begin to read the file; SQLite tries for ten seconds. The file must
    be open in some process."""
    command = [sys.executable, "-c", _HOLD, f"{database}-shm"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        yield
        holder.stdin.close()
