"""A feature service that the project declares, as Python opens it: Feast's object, which shows its features."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, cast

from feast import FeatureService

from headrace.features.feast.compiler import service_features
from headrace.features.feast.objects import FeastObjects
from headrace.kernel.counts import plural
from headrace.kernel.errors import ProjectError
from headrace.kernel.html import html_table

__all__ = ["DeclaredService", "open_service"]


class DeclaredService(FeatureService):  # type: ignore[misc]
    """A declared feature service. It is what Feast's API takes, and shows itself in a notebook.

    Attributes:
        features_by_view: view, as the service takes it → (name, dtype) of each of its features, in order; empty
            if the service cannot be compiled.
        problem: why it cannot be compiled, or None.
    """

    features_by_view: dict[str, list[tuple[str, str]]]
    problem: str | None

    def __repr__(self) -> str:
        count = plural(sum(map(len, self.features_by_view.values())), "feature")
        views = f"{count} of {', '.join(self.features_by_view)}"
        return f"<feature service {self.name}: {self.problem or views}>"

    def _repr_html_(self) -> str:
        """Its features for a notebook."""
        rows: Sequence[Sequence[object]] = [
            (view, name, dtype) for view, features in self.features_by_view.items() for name, dtype in features
        ]
        notes = [note for note in (self.problem, self.description) if note]
        return html_table(f"Feature service {self.name}", ("view", "feature", "type"), rows, notes=notes)


def open_service(service: FeatureService, objects: FeastObjects) -> DeclaredService:
    """The service with the features that it takes, also those that it names by text."""
    opened: Any = copy.copy(service)
    opened.__class__ = DeclaredService
    opened.features_by_view, opened.problem = {}, None
    try:
        for _, features in service_features(service, objects):
            for feature in features:
                opened.features_by_view.setdefault(feature.view, []).append((feature.name, feature.dtype))
    except ProjectError as error:
        opened.problem = error.what
    return cast(DeclaredService, opened)
