"""The packages whose internals Headrace uses, and the versions that have these internals.

Each package of Headrace that uses internals gathers them in a module `internals`, with the reason for each. A
test of that module fails if a new version has changed them. `pyproject.toml` has the same bounds.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import NamedTuple

from headrace.kernel.errors import Unavailable

__all__ = ["FOREIGN", "Foreign", "check_version"]


class Foreign(NamedTuple):
    """A package whose internals Headrace uses.

    Attributes:
        title: its name in messages.
        first: the first version that Headrace works with.
        beyond: the first version that it does not work with.
        users: the modules of Headrace that use its internals.
        test: the test that fails if the internals have changed.
    """

    title: str
    first: str
    beyond: str
    users: tuple[str, ...]
    test: str


FOREIGN = {
    "dvc": Foreign(
        "DVC",
        "3.67",
        "4",
        ("headrace.flows.build.pipeline", "headrace.flows.build.dvc_lock"),
        "tests/flows/test_dvc_internals.py",
    ),
    "feast": Foreign(
        "Feast",
        "0.67",
        "0.68",
        ("headrace.features.feast.internals",),
        "tests/features/feast/test_feast_internals.py",
    ),
    "mlflow": Foreign(
        "MLflow", "3.17", "4", ("headrace.registry.internals",), "tests/registry/test_internals.py"
    ),
    "polars": Foreign(
        "Polars",
        "2.1",
        "2.2",
        (
            "headrace.lake.reading.scan",
            "headrace.lake.reading.iceberg",
            "headrace.features.offline.compute.port",
        ),
        "tests/lake/test_polars_internals.py",
    ),
    "pydbzengine": Foreign(
        "pydbzengine",
        "3.6",
        "4",
        ("headrace.flows.events.capture",),
        "tests/flows/test_capture_internals.py",
    ),
    "pyiceberg": Foreign(
        "PyIceberg",
        "0.12",
        "0.13",
        ("headrace.lake.pyiceberg_internals", "headrace.lake.rest"),
        "tests/lake/test_pyiceberg_internals.py",
    ),
    "ray": Foreign("Ray", "2.60", "2.61", ("headrace.cluster.internals",), "tests/cluster/test_internals.py"),
    "uvicorn": Foreign("uvicorn", "0.54", "0.55", ("headrace.http.internals",), "tests/http/test_internals.py"),
}
"""Distribution → its versions, and the modules that use its internals."""


def check_version(distribution: str) -> None:
    """Checks that the installed version has the internals that Headrace uses.

    Raises:
        Unavailable: Headrace does not work with the installed version.
    """
    package = FOREIGN[distribution]
    installed = version(distribution)
    if not _numbers(package.first) <= _numbers(installed) < _numbers(package.beyond):
        bounds = f">={package.first},<{package.beyond}"
        raise Unavailable(
            f"{package.title} {installed} is installed, and Headrace needs {package.title} {bounds}",
            remedy=f'pip install "{distribution}{bounds}"',
        )


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2])
