"""Project: the settings, and every declaration of the project's package, by name.

Declarations are module-level objects. Importing a module fills no registry.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any, TypeVar

from msgspec import Struct, field

from headrace.config.settings import Settings
from headrace.declare.changes import current
from headrace.declare.event import Contract, contract_of
from headrace.declare.model import Model
from headrace.declare.place import Place
from headrace.declare.publish import Publication
from headrace.declare.source import Source
from headrace.declare.table import Table
from headrace.kernel.errors import CallError, ProjectError
from headrace.projects.loader import load_modules, module_stamps

__all__ = ["Project", "load_project"]

D = TypeVar("D")
_RESERVED = "headrace_"  # prefix of the tables of Headrace's own topics


class Project(Struct, frozen=True):
    """A project's declarations.

    Attributes:
        settings: its settings.
        contracts: topic → contract.
        sources, tables, models, publications: by name. Among the tables are those of the current rows of each
            contract under @changes (declare.changes.current). Each table comes after the tables that it reads;
            `inputs` resolves the names among its `reads`.
        modules: the modules that were imported; Feast's objects are found in them by features.feast.
        stamps: the stamps of the package's files when they were imported (projects.loader.module_stamps).
    """

    settings: Settings
    contracts: Mapping[str, Contract]
    sources: Mapping[str, Source]
    tables: Mapping[str, Table]
    models: Mapping[str, Model]
    publications: Mapping[str, Publication]
    modules: tuple[ModuleType, ...]
    stamps: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def inputs(self, table: Table) -> list[Contract | Source | Table]:
        """The inputs of a table, with names resolved."""
        return [self.tables[read] if isinstance(read, str) else read for read in table.reads]

    def source(self, name: str) -> Source:
        """The source of this name. Raises CallError if it does not exist."""
        return self._find(self.sources, name, "source", "tables")

    def table(self, name: str) -> Table:
        """The table of this name. Raises CallError if it does not exist."""
        return self._find(self.tables, name, "table", "tables")

    def model(self, name: str) -> Model:
        """The model of this name. Raises CallError if it does not exist."""
        return self._find(self.models, name, "model", "models")

    def contract(self, topic: str) -> Contract:
        """The contract of this topic. Raises CallError if it does not exist."""
        return self._find(self.contracts, topic, "the contract of topic", "events")

    def _find(self, declarations: Mapping[str, D], name: str, kind: str, module: str) -> D:
        if name in declarations:
            return declarations[name]
        names = ", ".join(sorted(declarations))
        file = f"{self.settings.project}/{module}.py"
        raise CallError(
            f"{kind} {name!r} does not exist",
            remedy=f"The project declares: {names}."
            if names
            else f"The project declares none yet: write the first one, for example in {file}.",
        )


def load_project(settings: Settings, *, without: Iterable[str] = ()) -> Project:
    """Imports the project's package and gathers its declarations.

    Args:
        settings: the project's settings.
        without: outside packages that are not imported (see projects.loader.load_modules): `["feast"]` leaves
            out features and models, and loads what ingest needs.

    Raises:
        ProjectError: a module cannot be imported, two declarations share a name or a table of the lake, a
            table reads an input that does not exist, tables read each other in a cycle, a target is not in the
            labels.
    """
    stamps = module_stamps(settings)
    modules = load_modules(settings, without=without)
    contracts: dict[str, Contract] = {}
    sources: dict[str, Source] = {}
    tables: dict[str, Table] = {}
    models: dict[str, Model] = {}
    publications: dict[str, Publication] = {}
    for declared in _list_declarations(modules):
        if isinstance(declared, Contract):
            _add(contracts, declared.topic, declared, "topic")
        elif isinstance(declared, Source):
            _add(sources, declared.name, declared, "source")
        elif isinstance(declared, Table):
            _add(tables, declared.name, declared, "table")
        elif isinstance(declared, Model):
            _add(models, declared.name, declared, "model")
        elif isinstance(declared, Publication):
            _add(publications, declared.name, declared, "publication")
    for contract in contracts.values():
        if contract.row_key:
            rows = current(contract)
            if tables.get(rows.name) is not rows:
                _add(tables, rows.name, rows, "table")
    for table in tables.values():
        for read in table.reads:
            if isinstance(read, Source) and sources.get(read.name) is not read:  # declared within the table
                _add(sources, read.name, read, "source")
    for name in sources.keys() & tables.keys():
        raise ProjectError(
            f"source {name!r} has the name of a table, and a table may read either",
            where=str(sources[name].place),
            remedy="Give one of them another name.",
        )
    for model in models.values():
        _check_target(model)
    _check_names(contracts.values(), tables.values(), models.values())
    return Project(
        settings, contracts, sources, _in_order(tables), models, publications, tuple(modules), stamps
    )


def _list_declarations(modules: Iterable[ModuleType]) -> list[Any]:
    by_id: dict[int, Any] = {}
    for module in modules:
        for value in vars(module).values():
            declaration = contract_of(value) or value
            if isinstance(declaration, (Contract, Source, Table, Model, Publication)):
                by_id[id(declaration)] = declaration
    return list(by_id.values())


def _add(declarations: dict[str, Any], name: str, declared: Any, kind: str) -> None:
    if name in declarations:
        raise ProjectError(
            f"{kind} {name!r} is declared twice; the other is at {declarations[name].place}",
            where=str(declared.place),
            remedy="Give one of them another name.",
        )
    declarations[name] = declared


def _check_names(contracts: Iterable[Contract], tables: Iterable[Table], models: Iterable[Model]) -> None:
    """Raises ProjectError if two tables of the lake would have the same name, without regard to case."""
    names = [(c.table, f"the table of topic {c.topic!r}", c.place) for c in contracts]
    names += [(t.name, f"table {t.name!r}", t.place) for t in tables]
    names += [(f"training_{m.name}", f"the training set of model {m.name!r}", m.place) for m in models]
    own = [c.table for c in contracts if c.struct.__module__.split(".")[0] == "headrace"]
    seen: dict[str, tuple[str, Place]] = {}
    for name, subject, place in names:
        if name.lower().startswith(_RESERVED) and name not in own:
            raise ProjectError(
                f"{subject} would be {name!r} in the lake, but the prefix {_RESERVED} is reserved for Headrace",
                where=str(place),
                remedy="Give it another name.",
            )
        other, other_place = seen.setdefault(name.lower(), (subject, place))
        if other is not subject:
            raise ProjectError(
                f"{subject} would be {name!r} in the lake, like {other}",
                where=str(place),
                remedy=f"Give one of them another name, beyond its case; the other is at {other_place}.",
            )


def _in_order(tables: dict[str, Table]) -> dict[str, Table]:
    ordered: dict[str, Table] = {}

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in ordered:
            return
        if name in path:
            cycle = " → ".join([*path[path.index(name) :], name])
            raise ProjectError(
                f"tables read or reference each other in a cycle: {cycle}", where=str(tables[name].place)
            )
        read_names = [
            (declared.name if isinstance(declared, Table) else declared, "reads")
            for declared in tables[name].reads
            if isinstance(declared, (Table, str))
        ]
        for read, verb in [*read_names, *((other, "references") for other in tables[name].references)]:
            if read not in tables:
                raise ProjectError(
                    f"table {name!r} {verb} {read!r}, which does not exist",
                    where=str(tables[name].place),
                    remedy=f"The tables are: {', '.join(sorted(tables))}.",
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
