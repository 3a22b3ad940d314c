"""check contracts: compare each contract with the one stored with its topic's table."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal

import attrs

from headrace.code.index import CodeIndex
from headrace.declare.event import Contract
from headrace.declare.table import Table
from headrace.events.contracts.description import describe_contract
from headrace.events.contracts.evolution import ContractChange, compare_contracts
from headrace.events.ingest.adoption import contract_refusal, find_stored_contract
from headrace.features.plan import AsOfView, FeaturePlan, StoredView
from headrace.projects.loader import project_files
from headrace.projects.project import Project
from headrace.workspace import Workspace

__all__ = ["ChangeEffect", "ContractCheck", "Dependent", "check_contracts"]

Outcome = Literal["new", "unchanged", "compatible", "accepted", "refused"]


@attrs.frozen
class Dependent:
    """A table, view or model downstream of a topic.

    Attributes:
        kind: table, view or model.
        name: its name.
        through: the table of the project through which it depends on the topic; None: it reads the topic
            itself.
    """

    kind: Literal["table", "view", "model"]
    name: str
    through: str | None = None


@attrs.frozen
class ChangeEffect:
    """One change of a contract, and who is affected.

    Attributes:
        change: the change.
        affects_producers: whether events of the topic's producers may be refused because of it.
        dependents: what reads the topic and names the field, and what depends on that.
    """

    change: ContractChange
    affects_producers: bool
    dependents: tuple[Dependent, ...]


@attrs.frozen
class ContractCheck:
    """The comparison of one contract with the stored one.

    Attributes:
        topic: the topic.
        version: the declared version.
        stored_version: the version stored with the table; None if there is none.
        fingerprint: the fingerprint of the declared contract.
        outcome: `new`: no contract is stored; `unchanged`; `compatible`: ingest evolves the table;
            `accepted`: the higher version accepts what tightens or breaks; `refused`: ingest does not start.
        effects: the changes, worst first.
        remedy: what to do if it is refused.
    """

    topic: str
    version: int
    stored_version: int | None
    fingerprint: str
    outcome: Outcome
    effects: tuple[ChangeEffect, ...] = ()
    remedy: str | None = None

    @property
    def breaks(self) -> bool:
        """Whether ingest refuses the contract, or a dependent in the project names a field that it removes."""
        dependents = any(effect.change.level == "breaks" and effect.dependents for effect in self.effects)
        return self.outcome == "refused" or dependents


def check_contracts(workspace: Workspace, topics: Sequence[str] = ()) -> list[ContractCheck]:
    """Compare the project's contracts, or those of some topics, with the stored ones.

    Raises:
        CallError: a topic has no contract.
        Unavailable: the lake cannot be reached.
    """
    project, lake = workspace.project, workspace.lake
    contracts = [project.contract(name) for name in topics] or list(project.contracts.values())
    pairs = [
        (contract, find_stored_contract(contract, lake), describe_contract(contract)) for contract in contracts
    ]
    if any(old is not None and compare_contracts(old, new) for _, old, new in pairs):
        project = workspace.whole_project  # with Feast for the views, which takes seconds: only after a change
    dependents = _Dependents(project)
    return [_check(contract, old, new, dependents) for contract, old, new in pairs]


def _check(
    contract: Contract, old: dict[str, Any] | None, new: dict[str, Any], dependents: _Dependents
) -> ContractCheck:
    topic, version, fingerprint = contract.topic, contract.version, new["fingerprint"]
    if old is None:
        return ContractCheck(topic, version, None, fingerprint, "new")
    changes = compare_contracts(old, new)
    error = contract_refusal(contract, old, new)
    outcome: Outcome = "unchanged"
    if error is not None:
        outcome = "refused"
    elif changes:
        compatible = all(change.level == "compatible" for change in changes)
        outcome = "compatible" if compatible else "accepted"
    effects = tuple(
        ChangeEffect(
            change,
            change.level == "tightens",
            dependents.find(contract, change.field) if change.level in ("breaks", "cannot be stored") else (),
        )
        for change in changes
    )
    remedy = None if error is None else error.remedy
    return ContractCheck(topic, version, old["version"], fingerprint, outcome, effects, remedy)


class _Dependents:
    """Finds what depends on a topic, directly and through other tables."""

    def __init__(self, project: Project) -> None:
        self._project = project
        self._index = CodeIndex(project_files(project.settings))
        self._words: dict[str, set[str]] = {}

    def find(self, contract: Contract, field: str | None) -> tuple[Dependent, ...]:
        """Find the tables that read the topic and name the field (or any field, for None), and what depends on
        them."""
        top_level = None if field is None else field.partition(".")[0].removesuffix("[]")
        tables = self._find_tables(contract, top_level)
        dependents = {("table", name): Dependent("table", name, through) for name, through in tables.items()}
        for model, plan in self._plans.items():
            for view in plan.stored:
                direct = view.table == contract.table and (top_level is None or top_level in _columns(view))
                if direct or view.table in tables:
                    through = None if direct else view.table
                    dependents["view", view.name] = Dependent("view", view.name, through)
                    dependents["model", model] = Dependent("model", model, through)
            labels = self._project.models[model].labels.name
            if labels in tables:
                dependents.setdefault(("model", model), Dependent("model", model, labels))
        return tuple(dependents.values())

    def _find_tables(self, contract: Contract, field: str | None) -> dict[str, str | None]:
        """Find the tables that depend on a field: name → the table through which; None: directly."""
        tables: dict[str, str | None] = {}
        for name, table in self._project.tables.items():  # in the order in which they depend on each other
            inputs = self._project.inputs(table)
            reads = any(source.topic == contract.topic for source in inputs if isinstance(source, Contract))
            if reads and (field is None or self._names_field(table, field)):
                tables[name] = None
                continue
            parents = [source.name for source in inputs if isinstance(source, Table) and source.name in tables]
            if parents:
                tables[name] = parents[0]
        return tables

    def _names_field(self, table: Table, field: str) -> bool:
        """Whether the table's code names the field. A table that the build makes itself has all fields."""
        function = table.function
        if not self._index.has(function.__module__):
            return True
        if table.name not in self._words:
            words = self._index.words(function.__module__, function.__qualname__.split(".")[0])
            partition = table.partition_by
            self._words[table.name] = words | ({partition.column} if partition is not None else set())
        return field in self._words[table.name]

    @cached_property
    def _plans(self) -> dict[str, FeaturePlan]:
        if not self._project.models:
            return {}
        from headrace.features.feast import compile as compile_plan  # takes 5 s

        return {name: compile_plan(self._project, model) for name, model in self._project.models.items()}


def _columns(view: StoredView) -> set[str]:
    """The columns of its table that a view names."""
    names = {*view.keys, view.time, *(feature.name for feature in view.features)}
    if isinstance(view, AsOfView):
        return {view.column(name) for name in names}
    return names | {column.name for column in view.columns}
