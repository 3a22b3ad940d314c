"""Project: the settings, and every declaration of the project's package, by name.

Declarations are module-level objects: there is no registry that importing a module fills.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, TypeVar

from headrace.config.settings import Settings
from headrace.declare.changes import current
from headrace.declare.event import Contract, contract_of
from headrace.declare.model import Model
from headrace.declare.place import Place
from headrace.declare.source import Source
from headrace.declare.table import Table
from headrace.kernel.errors import CallError, ProjectError
from headrace.projects.loader import load_modules

__all__ = ["Project", "load_project"]

D = TypeVar("D")
_OWN = "headrace_"  # what the tables of the product's own topics begin with


@dataclass(frozen=True)
class Project:
    """What a project declares.

    Attributes:
        settings: where it runs.
        contracts: topic → contract.
        sources, tables, models: by name. Among the tables are those of the current rows of each contract
            under @changes (declare.changes.current). They come in an order in which each comes after those it
            reads, and their `reads` hold no names any more (`inputs` resolves them).
        modules: the modules that were imported; Feast's objects are found in them by features.feast.
    """

    settings: Settings
    contracts: Mapping[str, Contract]
    sources: Mapping[str, Source]
    tables: Mapping[str, Table]
    models: Mapping[str, Model]
    modules: tuple[ModuleType, ...]

    def inputs(self, table: Table) -> list[Contract | Source | Table]:
        """What the table reads, names resolved."""
        return [self.tables[one] if isinstance(one, str) else one for one in table.reads]

    def table(self, name: str) -> Table:
        """The table of this name. Raises CallError where there is none."""
        return _named(self.tables, name, "table")

    def model(self, name: str) -> Model:
        """The model of this name. Raises CallError where there is none."""
        return _named(self.models, name, "model")

    def contract(self, topic: str) -> Contract:
        """The contract of this topic. Raises CallError where there is none."""
        return _named(self.contracts, topic, "topic with a contract")


def load_project(settings: Settings, *, without: Iterable[str] = ()) -> Project:
    """Imports the project's package and gathers its declarations.

    Args:
        settings: whose project.
        without: outside packages not to pay for (see config.loader.load_modules): `["feast"]` leaves
            out features and models and takes what ingest needs.

    Raises:
        ProjectError: a module cannot be imported, two declarations share a name or a table of the lake, a
            table reads what does not exist, tables read each other in a circle, a target is not in the labels.
    """
    modules = load_modules(settings, without=without)
    contracts: dict[str, Contract] = {}
    sources: dict[str, Source] = {}
    tables: dict[str, Table] = {}
    models: dict[str, Model] = {}
    for declared in _declared(modules):
        if isinstance(declared, Contract):
            _add(contracts, declared.topic, declared, "topic")
        elif isinstance(declared, Source):
            _add(sources, declared.name, declared, "source")
        elif isinstance(declared, Table):
            _add(tables, declared.name, declared, "table")
        elif isinstance(declared, Model):
            _add(models, declared.name, declared, "model")
    for contract in contracts.values():
        if contract.row_key and tables.get((one := current(contract)).name) is not one:
            _add(tables, one.name, one, "table")
    for name in sources.keys() & tables.keys():
        raise ProjectError(
            f"source {name!r} has the name of a table, and a table may read either",
            where=str(sources[name].place),
            remedy="Give one of them another name.",
        )
    for model in models.values():
        _check_target(model)
    _check_names(contracts.values(), tables.values(), models.values())
    return Project(settings, contracts, sources, _in_order(tables), models, tuple(modules))


def _declared(modules: Iterable[ModuleType]) -> list[Any]:
    seen: dict[int, Any] = {}
    for module in modules:
        for value in vars(module).values():
            one = contract_of(value) or value
            if isinstance(one, (Contract, Source, Table, Model)):
                seen[id(one)] = one
    return list(seen.values())


def _add(found: dict[str, Any], name: str, declared: Any, kind: str) -> None:
    if name in found:
        raise ProjectError(
            f"{kind} {name!r} is declared twice; the other is at {found[name].place}", where=str(declared.place)
        )
    found[name] = declared


def _check_names(contracts: Iterable[Contract], tables: Iterable[Table], models: Iterable[Model]) -> None:
    """Each table of the lake has a name of its own, also where the file system or SQL takes a for A."""
    named = [(one.table, f"the table of topic {one.topic!r}", one.place) for one in contracts]
    named += [(one.name, f"table {one.name!r}", one.place) for one in tables]
    named += [(f"training_{one.name}", f"the training set of model {one.name!r}", one.place) for one in models]
    own = [one.table for one in contracts if one.struct.__module__.split(".")[0] == "headrace"]
    seen: dict[str, tuple[str, Place]] = {}
    for name, what, place in named:
        if name.lower().startswith(_OWN) and name not in own:
            raise ProjectError(
                f"{what} would be {name!r} in the lake, and names that begin with {_OWN} are Headrace's own",
                where=str(place),
                remedy="Give it another name.",
            )
        other, there = seen.setdefault(name.lower(), (what, place))
        if other is not what:
            raise ProjectError(
                f"{what} would be {name!r} in the lake, as {other} is",
                where=str(place),
                remedy=f"Give one of them another name, in more than its case; the other is at {there}.",
            )


def _in_order(tables: dict[str, Table]) -> dict[str, Table]:
    ordered: dict[str, Table] = {}

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in ordered:
            return
        if name in path:
            circle = " → ".join([*path[path.index(name) :], name])
            raise ProjectError(f"tables read each other in a circle: {circle}", where=str(tables[name].place))
        for one in tables[name].reads:
            read = one.name if isinstance(one, Table) else one
            if not isinstance(read, str):
                continue
            if read not in tables:
                raise ProjectError(
                    f"table {name!r} reads {read!r}, which does not exist",
                    where=str(tables[name].place),
                    remedy=f"Tables here: {', '.join(sorted(tables))}.",
                )
            visit(read, (*path, name))
        ordered[name] = tables[name]

    for name in tables:
        visit(name, ())
    return ordered


def _check_target(model: Model) -> None:
    schema = model.labels.schema
    if schema is None:
        return
    for column in (model.target, "event_timestamp"):
        if column not in schema.column_names():
            raise ProjectError(
                f"model {model.name!r} needs column {column!r}, which its labels {model.labels.name!r} lack",
                where=str(model.place),
                remedy=f"Columns of {model.labels.name}: {', '.join(schema.column_names())}.",
            )


def _named(found: Mapping[str, D], name: str, kind: str) -> D:
    if name not in found:
        raise CallError(
            f"there is no {kind} {name!r}",
            remedy=f"There are: {', '.join(sorted(found))}." if found else "The project declares none.",
        )
    return found[name]
