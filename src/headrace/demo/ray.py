"""Starts the project's Ray in the background while the first steps of a demo run."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from headrace.config.settings import Settings
from headrace.kernel.errors import HeadraceError

__all__ = ["keep_ray"]

_logger = logging.getLogger(__name__)


@contextmanager
def keep_ray(settings: Settings) -> Iterator[None]:
    """Keeps this process connected to the project's Ray until the block ends.

    Steps that need Ray wait until it has started (`cluster.connection.connect`). If it does not
    start, they raise the error.
    """
    ended = threading.Event()
    # The thread lives as long as Ray does: Ray's daemons end with the thread that started them.
    thread = threading.Thread(target=_connect, args=(settings, ended), name="ray")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _connect(settings: Settings, ended: threading.Event) -> None:
    from headrace.cluster.connection import connect

    try:
        with connect(settings):
            ended.wait()
    except HeadraceError as error:
        _logger.info("Ray did not start in the background: %s", error)
