"""Runs `up` in a thread of this process, for notebooks, tests and demos."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from headrace.config.settings import Settings
from headrace.projects.running import Up
from headrace.runtime.up import up

__all__ = ["run_in_background"]


@contextmanager
def run_in_background(settings: Settings) -> Iterator[Up]:
    """Runs `up` during the block. The block begins when every server answers, and gets the addresses. At its
    end all processes that `up` started have ended.

    Raises:
        ProjectError, Unavailable: like `runtime.up.up`.
    """
    stop, settled = threading.Event(), threading.Event()
    states: list[Up] = []
    errors: list[BaseException] = []

    def on_ready(state: Up) -> None:
        states.append(state)
        settled.set()

    def run() -> None:
        try:
            up(settings, on_ready, stop)
        except BaseException as error:
            errors.append(error)
        finally:
            settled.set()

    thread = threading.Thread(target=run, name="up")
    thread.start()
    settled.wait()
    try:
        if errors:
            raise errors[0]
        yield states[0]
    finally:
        stop.set()
        thread.join()
    if errors:
        raise errors[0]
