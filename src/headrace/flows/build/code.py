"""The stage `code`: one fingerprint a declaration, which the other stages take as parameters.

Each is a list of `piece digest` lines, so that a stage can name the function whose edit made it stale.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from headrace import __version__
from headrace.code.fingerprint import CodeIndex, digest, external_digests, fingerprint, values_digest
from headrace.config.settings import Settings
from headrace.declare.event import Contract
from headrace.declare.model import Model
from headrace.declare.source import Source
from headrace.declare.table import Table
from headrace.projects.loader import project_files
from headrace.projects.project import Project

if TYPE_CHECKING:
    from headrace.features.plan import FeaturePlan

__all__ = ["LOCKS", "changed_pieces", "code_of", "fingerprint_of", "is_current", "text_digest"]

LOCKS = ("uv.lock", "pylock.toml", "poetry.lock", "requirements.lock", "requirements.txt")
_READING = 2  # how files are read; another number makes what reads them stale


def text_digest(settings: Settings) -> str:
    """The digest of all that the project's modules are made from: their code without comments, the lock."""
    sources = CodeIndex(project_files(settings))
    modules = {name: sources.pieces(name, "") for name in project_files(settings)}
    return digest([__version__, modules, _lock(settings)])


def is_current(code: dict[str, Any], settings: Settings, text: str) -> bool:
    """Whether fingerprints (code_of) are of this text and of the files and variables that tables now read."""
    outside = code.get("outside", {})
    return bool(code.get("text") == text and outside == external_digests(settings.root, **outside))


def code_of(project: Project, settings: Settings, text: str) -> dict[str, Any]:
    """What pointers/code.json holds.

    Args:
        project: the project, loaded.
        settings: whose project.
        text: the text_digest of the files that it was loaded from.

    Its keys: `text`, `outside` (external_digests), `lock`, `sources` (name → path), `topics` (topic → table),
    `tables` (name → pieces), `reads` (table → [kind, name] of what it reads), `contracts` (table of the topic →
    fields), `features` (pieces), `models` (name → `labels`, `views`, `plan`, `refresh`, and
    the pieces `set`, `fit`, `gate`).
    """
    sources = CodeIndex(project_files(settings))
    plans = _plans(project)
    declared = project.tables.values()
    outside = external_digests(
        settings.root,
        files=[path for table in declared for path in table.reads_files],
        env=[name for table in declared for name in table.env],
    )
    return {
        "text": text,
        "outside": outside,
        "lock": _lock(settings),
        "sources": {one.name: one.path for one in project.sources.values()},
        "topics": {one.topic: one.table for one in project.contracts.values()},
        "contracts": {one.table: _contract(one) for one in project.contracts.values()},
        "tables": {name: _table(project, table, sources, outside) for name, table in project.tables.items()},
        "reads": {name: [_read(one) for one in project.inputs(t)] for name, t in project.tables.items()},
        "features": _features(project, sources),
        "models": {
            name: {
                **_model(model, sources),
                "labels": model.labels.name,
                "views": sorted({view.table for view in plans[name].stored}),
                "plan": plans[name].digest,
                "refresh": model.refresh.total_seconds(),
            }
            for name, model in project.models.items()
        },
    }


def _plans(project: Project) -> dict[str, FeaturePlan]:
    if not project.models:
        return {}
    from headrace.features.feast import compile as compile_plan  # 5 s: only when code has changed

    return {name: compile_plan(project, model) for name, model in project.models.items()}


def fingerprint_of(pieces: list[str]) -> str:
    """One digest of a list of pieces."""
    return digest(pieces)


def changed_pieces(before: list[str], after: list[str]) -> list[str]:
    """The names of pieces that differ, sorted."""
    then, now = (dict(one.rsplit(" ", 1) for one in pieces) for pieces in (before, after))
    return sorted(name for name in then.keys() | now.keys() if then.get(name) != now.get(name))


def _read(one: Any) -> list[str]:
    """What a table reads, as [kind, name]: a source and a table may share a name."""
    if isinstance(one, Contract):
        return ["topics", one.table]
    return ["tables" if isinstance(one, Table) else "sources", one.name]


def _lines(pieces: dict[str, str]) -> list[str]:
    return [f"{name} {digest}" for name, digest in sorted(pieces.items())]


def _table(project: Project, table: Table, sources: CodeIndex, outside: dict[str, dict[str, str]]) -> list[str]:
    module = table.function.__module__
    pieces = sources.pieces(module, table.function.__qualname__.split(".")[0]) if sources.has(module) else {}
    values = values_digest(table.function, sources)
    if values is not None:
        pieces[f"values that {table.name}() was made with"] = values
    for module, name in _names_of(project, table, sources):
        pieces |= sources.pieces(module, name)
    # What the decorator was given, also where the table was not made by a decorator.
    given: list[Any] = [table.partition_by, table.rowwise, table.schema]
    if table.current:
        given += [contract.row_key for contract in table.reads if isinstance(contract, Contract)]
    pieces[f"@table of {table.name}"] = fingerprint(given, sources)
    pieces |= {f"file {path}": outside["files"][path] or "none" for path in table.reads_files}
    pieces |= {f"variable {name}": outside["env"][name] or "none" for name in table.env}
    for read in table.reads:
        if isinstance(read, Source):
            types = {column: repr(dtype) for column, dtype in read.schema.items()}
            pieces[f"source({read.name})"] = digest([_READING, types, read.encoding])
    return _lines(pieces)


def _names_of(project: Project, table: Table, sources: CodeIndex) -> Iterator[tuple[str, str]]:
    """Where the table is bound to a name: `daily = make_daily(2)` is code of it as well."""
    for module in project.modules:
        for name, value in vars(module).items():
            if value is table and sources.binds(module.__name__, name):
                yield module.__name__, name


def _model(model: Model, sources: CodeIndex) -> dict[str, list[str]]:
    def lines(*fields: str) -> list[str]:
        return _lines(
            {f"{field}= of {model.name}": fingerprint(getattr(model, field), sources) for field in fields}
        )

    return {
        "set": lines("labels", "target"),
        "fit": lines("target", "trainer", "tune", "split", "missing", "task"),
        "gate": lines("gate"),
    }


def _contract(one: Contract) -> list[str]:
    from headrace.events.contracts.description import describe_contract  # Arrow: only when code has changed

    fields = {f"{one.topic}.{name}": digest(field) for name, field in describe_contract(one)["fields"].items()}
    return _lines({**fields, f"{one.topic} time=": digest(one.time)})


def _features(project: Project, sources: CodeIndex) -> list[str]:
    """The pieces of every object of Feast's at the top of a module."""
    pieces: dict[str, str] = {}
    for module in project.modules:
        for name, value in vars(module).items():
            if type(value).__module__.split(".")[0] == "feast" and sources.has(module.__name__):
                pieces.update(sources.pieces(module.__name__, name))
    return _lines(pieces)


def _lock(settings: Settings) -> str:
    held = {name: (settings.root / name).read_text() for name in LOCKS if (settings.root / name).is_file()}
    return digest(json.dumps(held, sort_keys=True)) if held else "none"
