"""check contracts: each contract beside the one that its topic's table last had, and for whom it matters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from headrace import lake as lakes
from headrace.code.index import CodeIndex
from headrace.config.settings import Settings
from headrace.declare.event import Contract
from headrace.declare.table import Table
from headrace.events.contracts.description import describe_contract
from headrace.events.contracts.evolution import ContractChange, compare_contracts
from headrace.events.ingest.adoption import kept, refusal
from headrace.projects.loader import project_files
from headrace.projects.project import Project, load_project

__all__ = ["Checked", "Reader", "contracts"]

Outcome = Literal["new", "unchanged", "compatible", "meant", "refused"]


@dataclass(frozen=True)
class Reader:
    """Something downstream of a topic.

    Attributes:
        kind: table, view or model.
        name: its name.
        through: the table of the project by which the change comes to it; None: it reads the topic itself.
    """

    kind: Literal["table", "view", "model"]
    name: str
    through: str | None = None


@dataclass(frozen=True)
class Told:
    """One change, and for whom.

    Attributes:
        change: what has changed.
        producers: whether producers of the topic have events refused by it.
        readers: what reads the topic and names the field, and what is made of that.
    """

    change: ContractChange
    producers: bool
    readers: tuple[Reader, ...]


@dataclass(frozen=True)
class Checked:
    """One contract, compared.

    Attributes:
        topic: the topic.
        version: as it is declared.
        was: the version that the table last had; None where it had none.
        fingerprint: as it is declared.
        outcome: `new`: no table has seen it; `unchanged`; `compatible`: ingest evolves the table;
            `meant`: its higher version accepts what tightens or breaks; `refused`: ingest does not start.
        changes: worst first.
        remedy: what to do where it is refused.
    """

    topic: str
    version: int
    was: int | None
    fingerprint: str
    outcome: Outcome
    changes: tuple[Told, ...] = ()
    remedy: str | None = None

    @property
    def breaks(self) -> bool:
        """Whether ingest refuses it, or a reader of the project names what it takes away."""
        readers = any(one.change.level == "breaks" and one.readers for one in self.changes)
        return self.outcome == "refused" or readers


def contracts(settings: Settings, topics: Sequence[str] = ()) -> list[Checked]:
    """Compares the project's contracts (or those of some topics) with what their tables last had.

    Raises:
        CallError: a topic has no contract.
        Unavailable: the lake is away.
    """
    project = load_project(settings, without=("feast",))
    lake = lakes.open(settings)
    chosen = [project.contract(name) for name in topics] or list(project.contracts.values())
    pairs = [(one, kept(one, lake), describe_contract(one)) for one in chosen]
    if any(old is not None and compare_contracts(old, new) for _, old, new in pairs):
        project = load_project(settings)  # Feast, for the views: seconds, and only where something has changed
    downstream = _Downstream(project)
    return [_checked(one, old, new, downstream) for one, old, new in pairs]


def _checked(
    contract: Contract, old: dict[str, Any] | None, new: dict[str, Any], downstream: _Downstream
) -> Checked:
    topic, version, fingerprint = contract.topic, contract.version, new["fingerprint"]
    if old is None:
        return Checked(topic, version, None, fingerprint, "new")
    found = compare_contracts(old, new)
    error = refusal(contract, old, new)
    outcome: Outcome = "unchanged"
    if error is not None:
        outcome = "refused"
    elif found:
        outcome = "compatible" if all(one.level == "compatible" for one in found) else "meant"
    told = tuple(
        Told(
            one,
            one.level == "tightens",
            downstream.of(contract, one.field) if one.level in ("breaks", "cannot be stored") else (),
        )
        for one in found
    )
    remedy = None if error is None else error.remedy
    return Checked(topic, version, old["version"], fingerprint, outcome, told, remedy)


class _Downstream:
    """What reads a topic, directly and through others."""

    def __init__(self, project: Project) -> None:
        self._project = project
        self._index = CodeIndex(project_files(project.settings))
        self._words: dict[str, set[str]] = {}
        self._plans: dict[str, Any] | None = None

    def of(self, contract: Contract, field: str | None) -> tuple[Reader, ...]:
        """The tables that read the topic and name the field (any, where it is none), then what reads those."""
        top = None if field is None else field.partition(".")[0].removesuffix("[]")
        found: dict[tuple[str, str], Reader] = {}
        through: dict[str, str | None] = {}
        for name, table in self._project.tables.items():  # each comes after those that it reads
            inputs = self._project.inputs(table)
            reads = any(one.topic == contract.topic for one in inputs if isinstance(one, Contract))
            if reads and (top is None or self._names(table, top)):
                through[name] = None
                continue
            before = [one.name for one in inputs if isinstance(one, Table) and one.name in through]
            if before:
                through[name] = before[0]
        for name, one in through.items():
            found["table", name] = Reader("table", name, one)
        for model, plan in self._compiled().items():
            for view in plan.stored:
                direct = view.table == contract.table and (top is None or top in _columns(view))
                if direct or view.table in through:
                    source = None if direct else view.table
                    found["view", view.name] = Reader("view", view.name, source)
                    found["model", model] = Reader("model", model, source)
            labels = self._project.models[model].labels.name
            if labels in through:
                found.setdefault(("model", model), Reader("model", model, labels))
        return tuple(found.values())

    def _names(self, table: Table, field: str) -> bool:
        """Whether the table's code names the field. One that the build makes itself (current rows) has all."""
        function = table.function
        if not self._index.has(function.__module__):
            return True
        if table.name not in self._words:
            words = self._index.words(function.__module__, function.__qualname__.split(".")[0])
            partition = table.partition_by
            self._words[table.name] = words | ({partition.column} if partition is not None else set())
        return field in self._words[table.name]

    def _compiled(self) -> dict[str, Any]:
        if self._plans is None:
            self._plans = {}
            if self._project.models:
                from headrace.features.feast import compile as compile_plan  # 5 s

                self._plans = {
                    name: compile_plan(self._project, model) for name, model in self._project.models.items()
                }
        return self._plans


def _columns(view: Any) -> set[str]:
    """The columns of its table that a view names."""
    own = {one.name for one in view.features} | {one.name for one in getattr(view, "columns", ())}
    return {*view.keys, view.time, *own}
