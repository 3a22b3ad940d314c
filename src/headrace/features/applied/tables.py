"""The tables of Feast's own SQL registry."""

# ruff: noqa: S608  (the names in statements are Feast's)

from __future__ import annotations

from collections.abc import Callable

__all__ = ["VERSIONS", "select_protos", "statement_of_leftovers"]

VERSIONS = "feature_view_version_history"
"""One of the tables; Feast creates all of them at once."""

_VIEWS = ("feature_views", "stream_feature_views", "on_demand_feature_views", "label_views")
_OBJECTS = {  # tables of objects → the column of the object
    "entities": "entity",
    "data_sources": "data_source",
    "feature_services": "feature_service",
    **dict.fromkeys(_VIEWS, "feature_view"),
}


def statement_of_leftovers(name: Callable[[str], str]) -> str:
    """The statement that removes the versions of deleted views, which Feast's `teardown` leaves behind: with
    them, Feast cannot add the views again.

    Args:
        name: returns the full name of a table in the database.
    """
    is_gone = [
        f"not exists (select 1 from {name(table)} v where v.feature_view_name = h.feature_view_name"
        " and v.project_id = h.project_id)"
        for table in _VIEWS
    ]
    return f"delete from {name(VERSIONS)} as h where {' and '.join(is_gone)}"


def select_protos(name: Callable[[str], str], project: str, digest: Callable[[str], str]) -> str:
    """The query for table, name and digest of each object of a project.

    Args:
        name: as for `statement_of_leftovers`.
        project: the placeholder of the project's name.
        digest: returns the expression for the digest of a column.
    """
    selects = [
        f"select '{table}', {column}_name, {digest(f'{column}_proto')} from {name(table)}"
        f" where project_id = {project}"
        for table, column in _OBJECTS.items()
    ]
    return f"{' union all '.join(selects)} order by 1, 2"
