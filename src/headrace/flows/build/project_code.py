"""ProjectCode: the content of pointers/code.json, the fingerprints of everything that the project declares.

DVC uses its entries as parameters of stages, by their dotted names, such as `models.purchase.fit`.
A fingerprint is a list of `piece digest` lines, so that a stage can name the function whose edit made it stale.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import msgspec

from headrace.code.external import ExternalDigests
from headrace.flows.build.pointers import CODE, Pointers
from headrace.kernel.addresses import is_remote
from headrace.kernel.digest import digest_value

__all__ = [
    "ModelCode",
    "ProjectCode",
    "PublicationCode",
    "Read",
    "SourceCode",
    "diff_pieces",
    "read_project_code",
    "rename_pieces",
]


class Read(msgspec.Struct, frozen=True, array_like=True):
    """One input of a table. A source and a table may share a name, so the kind is part of it.

    Attributes:
        kind: the folder of its pointer.
        name: the table in the lake, or the source.
    """

    kind: Literal["topics", "tables", "sources"]
    name: str

    @property
    def pointer(self) -> str:
        """The pointer file."""
        return Pointers.path(self.kind, self.name)


class SourceCode(msgspec.Struct, frozen=True):
    """Which files a source names.

    Attributes:
        path: the file or folder, relative to the project; or an address in an object store.
        revision: the git tag or revision whose data are read; None: the files as they are now.
        glob: a pattern that the names of a folder's files match.
    """

    path: str
    revision: str | None = None
    glob: str = "*"

    @property
    def is_tracked(self) -> bool:
        """Whether the files are in the project's folder, where DVC sees a change."""
        return not self.revision and not is_remote(self.path)

    def describe(self, name: str) -> str:
        """The declaration, for errors."""
        revision = f", revision={self.revision!r}" if self.revision else ""
        return f"source({name!r}, {self.path!r}{revision})"


class ModelCode(msgspec.Struct, frozen=True):
    """A model's declaration.

    Attributes:
        labels: the table of its labels.
        views: the tables of its feature views, sorted.
        plan: the digest of its feature plan.
        refresh: how old its inputs may grow, in seconds.
        training_set, fit, gate: the pieces that decide the training set, the training and the gate.
        task: its task; None: the target's values decide it.
    """

    labels: str
    views: list[str]
    plan: str
    refresh: float
    training_set: list[str]
    fit: list[str]
    gate: list[str]
    task: str | None = None

    @property
    def tables(self) -> list[str]:
        """Every table that the model is made from, sorted."""
        return sorted({self.labels, *self.views})


class PublicationCode(msgspec.Struct, frozen=True):
    """A publication's declaration.

    Attributes:
        database: the name of the database.
        tables: the tables that it reads.
        pieces: the pieces of its code.
    """

    database: str
    tables: list[str]
    pieces: list[str]


class ProjectCode(msgspec.Struct, frozen=True):
    """The fingerprints of a project.

    Attributes:
        source_digest: of the project's source files and its lock (fingerprints.source_digest).
        external: the files and environment variables that tables declare to read.
        lock: the digest of the project's lock files; "none" where there are none.
        sources: name → which files it names.
        topics: topic → its table.
        contracts: table of the topic → pieces, one a field.
        contract_digests: topic → the digest of all of its contract (events.contracts.description).
        tables: name → pieces, in the order in which tables are built.
        reads: table → what it reads.
        features: the pieces of all Feast objects.
        models: name → its declaration.
        queries: the tables that a query of a database makes.
        publications: name → its declaration.
        reads_params: `sources.NAME`, `tables.NAME`, `models.NAME` or `features` → the entries of params.yaml
            that its code reads, sorted; "" is the whole file.
        params: each of those entries → the digest of its value.
        audits: table with declared audits → the pieces of these. They do not decide its rows.
        references: table → the other tables that its audits read.
        formats: topic → the format of its events.
        renames: table with declared renames → the pieces of these (rename_pieces). They do not decide its rows.
    """

    source_digest: str
    external: ExternalDigests
    lock: str
    sources: dict[str, SourceCode]
    topics: dict[str, str]
    contracts: dict[str, list[str]]
    contract_digests: dict[str, str]
    tables: dict[str, list[str]]
    reads: dict[str, list[Read]]
    features: list[str]
    models: dict[str, ModelCode]
    queries: list[str] = []
    publications: dict[str, PublicationCode] = {}
    reads_params: dict[str, list[str]] = {}
    params: dict[str, str] = {}
    audits: dict[str, list[str]] = {}
    references: dict[str, list[str]] = {}
    formats: dict[str, str] = {}
    renames: dict[str, list[str]] = {}

    def pointer_of(self, table: str) -> str:
        """The pointer of a table in the lake: a declared one, or a topic's."""
        return Pointers.path("tables" if table in self.tables else "topics", table)

    def parameter(self, key: str) -> Any:
        """The value of a DVC parameter, such as `models.purchase.fit`."""
        value = msgspec.to_builtins(self)
        for part in key.split("."):
            value = value[part]
        return value

    def params_of(self, key: str) -> list[str]:
        """The entries of params.yaml that a declaration reads, by its key in `reads_params`."""
        return self.reads_params.get(key, [])

    def contracts_of(self, table: str) -> list[str]:
        """The topics' tables that the table reads. Their contracts are part of its code."""
        return [read.name for read in self.reads[table] if read.kind == "topics"]

    def table_digest(self, table: str) -> str:
        """The digest of all code that decides a table's rows. The names of its columns do not."""
        contracts = [self.contracts[name] for name in self.contracts_of(table)]
        params = [self.params[name] for name in self.params_of(f"tables.{table}")]
        return digest_value([self.lock, self.tables[table], contracts, *params])

    def audits_digest(self, table: str) -> str:
        """The digest of the table's declared audits; "": it has none."""
        return digest_value([self.lock, self.audits[table]]) if table in self.audits else ""

    def publication_digest(self, name: str) -> str:
        """The digest of all code that decides what is published."""
        return digest_value([self.lock, self.publications[name].pieces])

    def training_set_digest(self, model: str) -> str:
        """The digest of what decides the rows of a model's training set: all code, and the files and revisions
        that its sources name. Another revision is another training set, whatever the model's refresh."""
        declared = self.models[model]
        tables = [
            [
                self.tables.get(name),
                *self.renames.get(name, ()),
                *(self.params[read] for read in self.params_of(f"tables.{name}")),
            ]
            for name in declared.tables
        ]
        sources = {name: self.sources[name] for name in sorted(self._sources_of(declared.tables))}
        return digest_value([declared.plan, declared.training_set, tables, msgspec.to_builtins(sources)])

    def _sources_of(self, tables: Iterable[str]) -> set[str]:
        """The sources that these tables read, directly or through other tables."""
        reads = [read for table in tables for read in self.reads.get(table, ())]
        sources = {read.name for read in reads if read.kind == "sources"}
        upstream = [read.name for read in reads if read.kind == "tables"]
        return sources | self._sources_of(upstream) if upstream else sources

    def training_digest(self, model: str) -> str:
        """The digest of all code that decides a model's training, except its training set."""
        return digest_value([self.lock, self.models[model].fit])


def read_project_code(pointers: Pointers) -> ProjectCode | None:
    """The content of pointers/code.json; None if there is none, or another version of Headrace wrote it.

    Raises:
        ProjectError: it is not JSON.
    """
    content = pointers.read(CODE)
    try:
        return None if content is None else msgspec.convert(content, ProjectCode)
    except msgspec.ValidationError:
        return None


def rename_pieces(table: str, renames: Mapping[str, str]) -> list[str]:
    """The pieces of a table's renames (column of its function → name in the table), one for each column."""
    return sorted(f"renames of {table}: {old} {digest_value(new)}" for old, new in renames.items())


def diff_pieces(before: list[str], after: list[str]) -> list[str]:
    """The names of the pieces that differ, sorted."""
    old, new = (dict(line.rsplit(" ", 1) for line in lines) for lines in (before, after))
    return sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
