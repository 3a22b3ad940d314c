"""A member of the group `workers` on topic `wide`, for test_sharing. Prints its share when it changes.

    python -m tests.contract.member URL FOLDER SESSION

It ends when it reads a line from its input.
"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

from headrace import log


def shorten_sessions(url: str, seconds: float) -> None:
    """Makes the members of this process time out after so many seconds."""
    if url.startswith("kafka"):
        from headrace.log.kafka import member as kafka_member

        kafka_member.SESSION_MS = int(seconds * 1_000)
    else:
        from headrace.log.sqlite import member as sqlite_member

        sqlite_member.SESSION_SECONDS = seconds


def main(url: str, folder: str, session: str) -> None:
    shorten_sessions(url, float(session))
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.readline(), ended.set()), daemon=True).start()
    opened = log.open(url)
    member = opened.join("wide", "workers", Path(folder))
    printed = None
    while not ended.is_set():
        share = sorted(member.partitions())
        if share != printed:
            print(*share, flush=True)  # noqa: T201
            printed = share
        time.sleep(0.02)
    member.close()
    opened.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
