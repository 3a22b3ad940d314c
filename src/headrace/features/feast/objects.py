"""Finds the Feast objects that a project's modules declare, by kind and name, each with its place."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from feast import Entity, FeatureService, FeatureView, OnDemandFeatureView
from feast.base_feature_view import BaseFeatureView
from feast.data_source import DataSource
from msgspec import Struct, field

from headrace.declare.model import Model
from headrace.kernel.errors import ProjectError

__all__ = ["FeastObjects", "find_objects"]


class FeastObjects(Struct):
    """Feast's objects, by name.

    Attributes:
        entities, services: by name.
        views: feature views of every kind, on-demand ones included.
        sources: data sources that are themselves module-level objects.
        homes: id of an object → its module and its name in the module.
        places: id of a service that is declared within a model → the model's place.
    """

    entities: dict[str, Entity] = field(default_factory=dict)
    views: dict[str, FeatureView | OnDemandFeatureView] = field(default_factory=dict)
    services: dict[str, FeatureService] = field(default_factory=dict)
    sources: dict[str, DataSource] = field(default_factory=dict)
    homes: dict[int, tuple[ModuleType, str]] = field(default_factory=dict)
    places: dict[int, str] = field(default_factory=dict)

    def all_objects(self) -> list[Any]:
        """Every object: entities, views, services, sources."""
        groups: list[Iterable[Any]] = [
            self.entities.values(),
            self.views.values(),
            self.services.values(),
            self.sources.values(),
        ]
        return [value for group in groups for value in group]

    def place(self, value: Any) -> str:
        """File and line of an object's declaration, for errors."""
        home = self.homes.get(id(value))
        if home is None:
            return self.places.get(id(value)) or f"Feast's {type(value).__name__} {value.name!r}"
        module, name = home
        return f"{module.__file__}:{_line(module, name)}"


def find_objects(modules: Iterable[ModuleType], models: Iterable[Model] = ()) -> FeastObjects:
    """Finds the module-level Feast objects of a project's modules, and the services declared within its models.

    Raises:
        ProjectError: two objects of one kind share a name.
    """
    objects = FeastObjects()
    groups: list[tuple[type, dict[str, Any]]] = [
        (Entity, objects.entities),
        (FeatureService, objects.services),
        (BaseFeatureView, objects.views),
        (DataSource, objects.sources),
    ]
    for module in modules:
        for name, value in vars(module).items():
            group = next((group for kind, group in groups if isinstance(value, kind)), None)
            if group is None:
                continue
            other = group.setdefault(value.name, value)
            objects.homes.setdefault(id(value), (module, name))
            if other is not value:
                raise ProjectError(
                    f"{type(value).__name__} {value.name!r} is declared twice;"
                    f" the other is at {objects.place(other)}",
                    where=objects.place(value),
                )
    for model in models:
        service = model.features
        if isinstance(service, FeatureService) and id(service) not in objects.homes:
            objects.places[id(service)] = str(model.place)
            other = objects.services.setdefault(service.name, service)
            if other is not service:
                raise ProjectError(
                    f"FeatureService {service.name!r} is declared twice;"
                    f" the other is at {objects.place(other)}",
                    where=str(model.place),
                )
    return objects


def _line(module: ModuleType, name: str) -> int:
    """The line that binds `name` at the top of the module; 0 if no line does."""
    for statement in ast.parse(Path(module.__file__ or "").read_bytes()).body:
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement]
        names = {getattr(target, "id", getattr(target, "name", None)) for target in targets}
        if isinstance(statement, ast.AnnAssign):
            names = {getattr(statement.target, "id", None)}
        if name in names:
            return statement.lineno
    return 0
