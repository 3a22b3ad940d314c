"""source: data that are not events, which a table reads."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.declare.place import Place
from headrace.kernel.errors import ProjectError

__all__ = ["Source", "source"]


@dataclass(frozen=True, eq=False)
class Source:
    """Files that a table reads.

    Attributes:
        name: its name.
        path: a file, or a folder of them, relative to the project; CSV or Parquet by their ending.
        place: where it is declared.
    """

    name: str
    path: str
    place: Place


def source(name: str, path: str) -> Source:
    """Declares files as a source: `source("catalogue", "data/catalogue.csv")`.

    Raises:
        ProjectError: the path is absolute or leads out of the project.
    """
    place = Place.of_caller()
    if path.startswith("/") or ".." in path.split("/"):
        raise ProjectError(f"path={path!r} must lie in the project", where=str(place))
    return Source(name, path, place)
