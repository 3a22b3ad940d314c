"""Takes the fingerprints of a project: of each table, contract and model, and of all Feast objects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import msgspec

from headrace import __version__
from headrace.code.external import ExternalDigests, external_digests
from headrace.code.fingerprint import fingerprint, values_digest
from headrace.code.index import CodeIndex
from headrace.code.reader import file_text
from headrace.code.source_files import LOCK_FILES, PARAMS_FILE
from headrace.config.settings import Settings
from headrace.declare.event import Contract
from headrace.declare.model import Model, task_of
from headrace.declare.params import find_param, read_params
from headrace.declare.publish import Publication
from headrace.declare.source import Source
from headrace.declare.table import Table
from headrace.flows.build.project_code import (
    ModelCode,
    ProjectCode,
    PublicationCode,
    Read,
    SourceCode,
    rename_pieces,
)
from headrace.kernel.digest import digest_value, short_digest
from headrace.kernel.errors import ProjectError
from headrace.projects.loader import project_files
from headrace.projects.project import Project

if TYPE_CHECKING:
    from headrace.features.plan import FeaturePlan

__all__ = ["check_declarations", "fingerprint_project", "is_current", "source_digest"]

_FILE_READING = 4  # the version of how files are read: a higher one makes the tables that read them stale
_WITHOUT_ROWS = frozenset({"audits", "renames"})  # arguments of @table that do not decide the table's rows
_OTHER_STAGES = frozenset({"labels", "features"})  # arguments of a Model that decide stages before its training


def source_digest(settings: Settings) -> str:
    """The digest of the project's source: its modules without comments, its params.yaml and its lock."""
    code = {name: digest_value(file_text(path)) for name, path in project_files(settings).items()}
    return digest_value([__version__, code, _param_digest(read_params(settings.root)), _lock_digest(settings)])


def is_current(code: ProjectCode, settings: Settings, digest: str) -> bool:
    """Whether the fingerprints belong to this source_digest and to the present files and variables."""
    external = code.external
    return code.source_digest == digest and external == external_digests(
        settings.root, external.files, external.env
    )


def fingerprint_project(project: Project, settings: Settings, digest: str) -> ProjectCode:
    """The fingerprints of the project.

    Args:
        project: the project, loaded.
        settings: the settings of the project.
        digest: the source_digest of the files that it was loaded from.

    Raises:
        ProjectError: a file is not valid Python, a module declares one name twice, or Feast objects cannot be
            compiled.
    """
    files = project_files(settings)
    index = CodeIndex(files)
    check_declarations(index, files)
    external = external_digests(
        settings.root,
        files=[path for table in project.tables.values() for path in table.reads_files],
        env=[name for table in project.tables.values() for name in table.env],
    )
    plans = _compile_plans(project)
    reads_params = _params_by_reader(project, index)
    params = read_params(settings.root)
    return ProjectCode(
        source_digest=digest,
        external=external,
        lock=_lock_digest(settings),
        sources={
            name: SourceCode(source.path, source.revision, source.glob)
            for name, source in project.sources.items()
        },
        topics={contract.topic: contract.table for contract in project.contracts.values()},
        contracts={contract.table: _contract_pieces(contract) for contract in project.contracts.values()},
        contract_digests={c.topic: _description(c)["fingerprint"] for c in project.contracts.values()},
        tables={name: _table_pieces(project, table, index, external) for name, table in project.tables.items()},
        reads={
            name: [_read(declared) for declared in project.inputs(table)]
            for name, table in project.tables.items()
        },
        features=_feature_pieces(project, index),
        models={name: _model_code(model, plans[name], index) for name, model in project.models.items()},
        queries=sorted(name for name, table in project.tables.items() if table.query is not None),
        publications={name: _publication_code(p, index) for name, p in project.publications.items()},
        reads_params=reads_params,
        params={
            name: _param_digest(find_param(params, name, str(settings.root / PARAMS_FILE)))
            for name in sorted({name for names in reads_params.values() for name in names})
        },
        audits={
            name: _lines({f"audits= of {name}": fingerprint(table.audits, index)})
            for name, table in project.tables.items()
            if table.audits
        },
        references={name: list(table.references) for name, table in project.tables.items() if table.references},
        formats={contract.topic: contract.format for contract in project.contracts.values()},
        renames={
            name: rename_pieces(name, table.renames) for name, table in project.tables.items() if table.renames
        },
    )


def check_declarations(index: CodeIndex, files: Mapping[str, Path]) -> None:
    """Checks that no module declares one name twice: the first declaration would be lost.

    Args:
        index: the index of the files.
        files: module name → file.

    Raises:
        ProjectError: a module does, or a file is not valid Python.
    """
    for module, name, first, second in index.find_redeclared():
        raise ProjectError(
            f"{name!r} is declared twice in one module, so the declaration in line {first} is lost",
            where=f"{files[module]}:{second}",
            remedy="Give one of them another name, or remove it.",
        )


def _params_by_reader(project: Project, index: CodeIndex) -> dict[str, list[str]]:
    """The content of ProjectCode.reads_params."""
    readers: dict[str, set[str]] = {}
    for name, source in project.sources.items():
        places = _names_of(project, source, index)
        readers[f"sources.{name}"] = {param for place in places for param in index.param_names(*place)}
    for name, table in project.tables.items():
        module = table.function.__module__
        bindings = set(_names_of(project, table, index))
        if index.has(module):
            bindings.add((module, table.function.__qualname__.split(".")[0]))
        readers[f"tables.{name}"] = {param for place in bindings for param in index.param_names(*place)}
    for name, model in project.models.items():
        readers[f"models.{name}"] = {
            param
            for place in _names_of(project, model, index)
            for param in index.param_names(*place, without=_OTHER_STAGES)
        }
    readers["features"] = {
        param for place in _feast_names(project, index) for param in index.param_names(*place)
    }
    return {key: sorted(names) for key, names in readers.items() if names}


def _param_digest(value: Any) -> str:
    return short_digest(msgspec.json.encode(value, order="sorted"))


def _compile_plans(project: Project) -> dict[str, FeaturePlan]:
    if not project.models:
        return {}
    from headrace.features.feast import compile as compile_plan  # 5 s: only when code has changed

    return {name: compile_plan(project, model) for name, model in project.models.items()}


def _read(declared: Contract | Source | Table) -> Read:
    if isinstance(declared, Contract):
        return Read("topics", declared.table)
    return Read("tables" if isinstance(declared, Table) else "sources", declared.name)


def _lines(pieces: dict[str, str]) -> list[str]:
    return [f"{name} {digest}" for name, digest in sorted(pieces.items())]


def _table_pieces(project: Project, table: Table, index: CodeIndex, external: ExternalDigests) -> list[str]:
    module = table.function.__module__
    name = table.function.__qualname__.split(".")[0]
    pieces = index.pieces(module, name, without=_WITHOUT_ROWS) if index.has(module) else {}
    values = values_digest(table.function, index)
    if values is not None:
        pieces[f"values that {table.name}() was made with"] = values
    for module, name in _names_of(project, table, index):
        pieces |= index.pieces(module, name, without=_WITHOUT_ROWS)
    # The decorator's arguments, even if the table was made without a decorator.
    arguments: list[Any] = [table.partition_by, table.rowwise, table.schema]
    if table.current:
        arguments += [contract.row_key for contract in table.reads if isinstance(contract, Contract)]
    if table.query is not None:
        typed = sorted((column, repr(dtype)) for column, dtype in table.query.schema.items())
        arguments += [attrs.astuple(attrs.evolve(table.query, schema={}), recurse=False), typed]
    pieces[f"@table of {table.name}"] = fingerprint(arguments, index)
    pieces |= {f"file {path}": external.files[path] or "none" for path in table.reads_files}
    pieces |= {f"variable {name}": external.env[name] or "none" for name in table.env}
    for read in table.reads:
        if isinstance(read, Source):
            types = {column: repr(dtype) for column, dtype in read.schema.items()}
            pieces[f"source({read.name})"] = digest_value(
                [_FILE_READING, types, read.encoding, read.null_values, read.delimiter, read.decimal]
            )
    return _lines(pieces)


def _names_of(
    project: Project, declared: Source | Table | Model, index: CodeIndex
) -> Iterator[tuple[str, str]]:
    """Module and name of each statement that binds it: `daily = make_daily(2)` is a table's code too."""
    for module in project.modules:
        for name, value in vars(module).items():
            if value is declared and index.binds(module.__name__, name):
                yield module.__name__, name


def _model_code(model: Model, plan: FeaturePlan, index: CodeIndex) -> ModelCode:
    def pieces(*fields: str) -> list[str]:
        return _lines(
            {f"{field}= of {model.name}": fingerprint(getattr(model, field), index) for field in fields}
        )

    return ModelCode(
        labels=model.labels.name,
        views=sorted({view.table for view in plan.stored}),
        plan=plan.digest,
        refresh=model.refresh.total_seconds(),
        training_set=pieces("labels", "target"),
        fit=pieces("target", "trainer", "tune", "split", "missing", "task", "baseline"),
        gate=pieces("gate"),
        task=task_of(model),
    )


def _publication_code(publication: Publication, index: CodeIndex) -> PublicationCode:
    parts = {"facts": publication.facts, "views": dict(publication.views)}
    pieces = _lines(
        {f"{part} of {publication.name}": fingerprint(value, index) for part, value in parts.items()}
    )
    tables = [table.name for table in publication.tables]
    return PublicationCode(publication.database, tables, pieces)


def _contract_pieces(contract: Contract) -> list[str]:
    fields = _description(contract)["fields"]
    pieces = {f"{contract.topic}.{name}": digest_value(field) for name, field in fields.items()}
    return _lines({**pieces, f"{contract.topic} time=": digest_value(contract.time)})


def _description(contract: Contract) -> dict[str, Any]:
    from headrace.events.contracts.description import describe_contract  # Arrow: only when code has changed

    return describe_contract(contract)


def _feature_pieces(project: Project, index: CodeIndex) -> list[str]:
    """The pieces of every Feast object at the top of a module."""
    pieces: dict[str, str] = {}
    for module, name in _feast_names(project, index):
        pieces.update(index.pieces(module, name))
    return _lines(pieces)


def _feast_names(project: Project, index: CodeIndex) -> Iterator[tuple[str, str]]:
    """Module and name of every Feast object at the top of a module."""
    for module in project.modules:
        for name, value in vars(module).items():
            if type(value).__module__.split(".")[0] == "feast" and index.has(module.__name__):
                yield module.__name__, name


def _lock_digest(settings: Settings) -> str:
    paths = {name: settings.root / name for name in LOCK_FILES}
    texts = {name: path.read_text() for name, path in paths.items() if path.is_file()}
    return digest_value(texts) if texts else "none"
