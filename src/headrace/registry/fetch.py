"""Fetches a bundle from MLflow in a process of its own.

Importing MLflow takes seconds and 100 MB, during which a replica would answer late, and which it would keep.
"""

from __future__ import annotations

import pickle
import subprocess
import sys

from headrace.config.settings import Settings
from headrace.kernel.errors import HeadraceError, Unavailable

__all__ = ["answer", "fetch_apart"]

_LONGEST = 600.0  # seconds


def fetch_apart(settings: Settings, model: str, version: int) -> None:
    """Fetches the bundle into its folder. The caller holds the model's lock.

    Raises:
        CallError: the version does not exist.
        Refused: a file differs from the manifest, or the signature is not trusted.
        Unavailable: MLflow cannot be reached, or did not answer in time.
    """
    where = f"{model}@{version}"
    try:
        done = subprocess.run(
            [sys.executable, "-c", f"from {__name__} import answer; answer()"],
            input=pickle.dumps((settings, model, version)),
            stdout=subprocess.PIPE,
            timeout=_LONGEST,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(f"the bundle was not fetched within {_LONGEST:.0f} s", where=where) from None
    if done.stdout:
        raise pickle.loads(done.stdout)  # noqa: S301 - of the process that was started here
    if done.returncode:
        raise Unavailable("the process that fetches the bundle failed; the log says why", where=where)


def answer() -> None:
    """Fetches the bundle that standard input names. An error is pickled to standard output."""
    from headrace.registry.store import open as open_registry

    settings, model, version = pickle.loads(sys.stdin.buffer.read())  # noqa: S301 - of the starter
    try:
        open_registry(settings).fetch_bundle(model, version)
    except HeadraceError as error:
        sys.stdout.buffer.write(pickle.dumps(error))
