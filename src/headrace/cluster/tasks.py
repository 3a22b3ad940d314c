"""Runs a function on the workers of Ray, a task for each item."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

from headrace.kernel.errors import HeadraceError, Unavailable

__all__ = ["cpus", "run_tasks"]

_QUEUED = 2  # tasks for each CPU that are submitted at once: one runs, and one waits
_RETRIES = 2  # of a task whose worker ended
_THREADS = "POLARS_MAX_THREADS"

Item = TypeVar("Item")
Result = TypeVar("Result")


def run_tasks(
    function: Callable[[Item], Result], items: Iterable[Item], describe: Callable[[Item], str]
) -> Iterator[Result]:
    """Calls the function with each item on a worker, on one CPU. Yields the results in the order in which they
    are ready. Ray repeats the task of a worker that ended.

    The process must be connected to Ray (`cluster.connection.connect`).

    Args:
        function: a function of a module that workers can import.
        items: what it is called with; they are pickled.
        describe: names an item in an error.

    Raises:
        HeadraceError: the function raised it.
        Unavailable: a worker ended in each of its tries, or Ray is not available any more.
    """
    import ray

    task: Any = ray.remote(num_cpus=1, max_retries=_RETRIES)(_call)
    waiting, running = iter(items), dict[Any, Item]()
    slots = _QUEUED * cpus()
    try:
        while True:
            for item in islice(waiting, slots - len(running)):
                running[task.remote(pickle.dumps((function, item)))] = item
            if not running:
                return
            (ready,), _ = ray.wait(list(running), num_returns=1)
            item = running.pop(ready)
            yield _result(ray.get, ready, describe(item))
    finally:
        for reference in running:
            # By force, which ends the worker: an interrupt may leave a module half imported for its next task.
            ray.cancel(reference, force=True)


def cpus() -> int:
    """How many CPUs the cluster has, which this process is connected to."""
    import ray

    return max(1, int(ray.cluster_resources().get("CPU", 1)))


def _result(get: Callable[[Any], Any], reference: Any, what: str) -> Any:
    from ray.exceptions import RayError, RayTaskError

    try:
        return get(reference)
    except RayTaskError as error:
        if isinstance(error.cause, HeadraceError):
            raise error.cause from error
        raise
    except RayError as error:
        reason = str(error).strip().partition("\n")[0]
        raise Unavailable(
            f"Ray did not finish the task of {what}: {type(error).__name__}: {reason}",
            remedy="Its workers may have been stopped, or had too little memory. What is written is kept: try"
            " again.",
        ) from error


def _call(payload: bytes) -> Any:
    """What a task runs. The payload is unpickled here, because that imports Polars, which reads the number of
    its threads once: a task has one CPU."""
    os.environ.setdefault(_THREADS, "1")
    function, item = pickle.loads(payload)  # noqa: S301  # the build's own process sent it
    return function(item)
