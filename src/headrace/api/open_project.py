"""The Python API: the commands of the command line as methods of `headrace.project()`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headrace.api.listing import Listing
from headrace.api.models import OpenModel, list_feature_services, list_models
from headrace.api.rows import Rows, TableListing
from headrace.api.serving import ServingCalls
from headrace.config.settings import Settings, load_settings
from headrace.kernel.errors import CallError
from headrace.workspace import Workspace

if TYPE_CHECKING:
    import polars as pl

    from headrace.declare.event import Contract
    from headrace.features.feast.declared_service import DeclaredService
    from headrace.flows.build import BuildReport, Progress
    from headrace.flows.events.ingest_report import IngestReport
    from headrace.flows.events.send import SendReport
    from headrace.flows.project.status import Status
    from headrace.flows.project.table_tags import TableVersion
    from headrace.lineage import RunRow
    from headrace.lineage.graph import Node
    from headrace.projects.running import Up
    from headrace.training.report import TrainingReport

__all__ = ["OpenProject", "project"]


def project(folder: str | Path | None = None, *, profile: str | None = None) -> OpenProject:
    """Opens the project in `folder`, by default the one around the working folder.

    Raises:
        ProjectError: there is no project, its settings are wrong, or the profile does not exist.
    """
    return OpenProject(load_settings(None if folder is None else Path(folder), profile))


class OpenProject(ServingCalls):
    """A project on a profile.

    Attributes:
        settings: the settings of the project.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def table(self, name: str, *, at: int | str | datetime | None = None) -> Rows:
        """A table as readers see it, or at an earlier snapshot, with the columns that it had.

        Args:
            name: the name of the table.
            at: a snapshot's id; a tag, or "main" for the newest snapshot, visible or not; or an aware datetime:
                what readers saw then.

        Raises:
            CallError: the table, the tag or the snapshot does not exist, the table is not visible yet, the
                snapshot has expired, or the moment has no time zone.
        """
        return self.tables(name, at=at)[0]

    @property
    def tables(self) -> TableListing:
        """The tables of the lake that readers see, by name: topics' tables, declared ones, training sets.

            headrace.project().tables["users"]                     # as `table("users")`
            facts, users = headrace.project().tables("facts", "users")

        A call opens several tables as readers see them at one moment: a build that ends meanwhile does not
        count. It takes `at` as `table` does: a moment, or a tag that all of them have.
        """
        return TableListing(self.settings)

    @property
    def topics(self) -> Listing[Contract]:
        """The topics that the project declares, by name: their contracts."""

        def describe() -> tuple[Sequence[str], Sequence[Sequence[object]]]:
            with Workspace(self.settings) as workspace:
                contracts = workspace.project.contracts.values()
            columns = ("topic", "table", "time", "key", "declared at")
            return columns, [(c.topic, c.table, c.time, c.key, c.place) for c in contracts]

        def names() -> list[str]:
            with Workspace(self.settings) as workspace:
                return list(workspace.project.contracts)

        def open_contract(name: str) -> Contract:
            with Workspace(self.settings) as workspace:
                return workspace.project.contract(name)

        remedy = f"Say in {self.settings.project}/events.py what an event is."
        return Listing("topic", names, open_contract, remedy=remedy, describe=describe)

    @property
    def models(self) -> Listing[OpenModel]:
        """The models that the project declares, by name: their versions, training sets and reports."""
        return list_models(self.settings)

    @property
    def feature_services(self) -> Listing[DeclaredService]:
        """The feature services that the project declares, by name: Feast's objects."""
        return list_feature_services(self.settings)

    def source(self, name: str, *, revision: str | None = None) -> pl.LazyFrame:
        """The rows of a source's files, as tables read them.

        Args:
            name: the name of the source.
            revision: a git tag, branch or commit whose data are read; by default the revision that the source
                declares, or else the files in the project's folder.

        Raises:
            CallError: the source does not exist.
            ProjectError: the files are missing or broken, or the revision does not exist; the error lists the
                tags.
        """
        from headrace.flows.project.read_source import read_source

        with Workspace(self.settings) as workspace:
            return read_source(workspace, name, revision)

    def failing_rows(self, name: str) -> Rows:
        """The rows of a table that failed the last audit: its columns, and `_rule`, `_severity`, `_partition`
        and `_audited_at`. At most 100 rows of a rule are kept; none, if the last audit passed.

        Raises:
            CallError: no row of the table has ever failed.
        """
        from headrace.tables.audits.report import failing_table

        with Workspace(self.settings) as workspace:
            if not workspace.lake.table_exists(failing_table(name)):
                raise CallError(f"no row of table {name!r} has failed an audit")
            return Rows(workspace.visible, failing_table(name), None)

    def tag_table(self, name: str, tag: str, *, at: int | str | datetime | None = None) -> Rows:
        """headrace tag-table: names a snapshot (as for `table`), so that it does not expire.

        A tag does not move.

        Raises:
            CallError: as `table`; or the tag is not valid, or names another snapshot.
        """
        from headrace.flows.project.table_tags import tag_table

        with Workspace(self.settings) as workspace:
            return Rows(workspace.visible, name, tag_table(workspace, name, tag, at).id)

    def untag_table(self, name: str, tag: str) -> None:
        """headrace untag-table: removes a tag. Its snapshot may then expire.

        Raises:
            CallError: the table or the tag does not exist, or Headrace set the tag.
        """
        from headrace.flows.project.table_tags import untag_table

        with Workspace(self.settings) as workspace:
            untag_table(workspace, name, tag)

    def table_versions(self, name: str) -> list[TableVersion]:
        """headrace table-versions: the snapshots that can be read, oldest first, with their tags.

        Raises:
            CallError: the table does not exist.
        """
        from headrace.flows.project.table_tags import list_versions

        with Workspace(self.settings) as workspace:
            return list_versions(workspace, name)

    def as_of(self, declared: Any, moment: datetime) -> pl.DataFrame:
        """The rows of a database's table at a moment, from its changelog: one row per key, ordered by key.

        Args:
            declared: the class under @changes, or its topic.
            moment: an aware datetime, by the database's clock.

        Raises:
            CallError: the topic does not exist, has no changes, or none was ingested; or `moment` is naive.
        """
        from headrace.flows.project.read_as_of import read_as_of

        with Workspace(self.settings) as workspace:
            return read_as_of(workspace, declared, moment)

    def training_set(self, model: str, *, at: int | str | datetime | None = None) -> Rows:
        """A model's training set (at a snapshot, as for `table`): labels, and a column `view__feature` for each
        feature.

        Raises:
            CallError: it has not been made yet, or as `table`.
        """
        return self.table(f"training_{model}", at=at)

    def training_report(self, model: str, version: int | str = "champion") -> TrainingReport:
        """How a version was trained: its rows, parameters, metrics and the result of the gate.

        Args:
            model: the name of the model.
            version: the number or alias of the version.

        Raises:
            CallError: the version does not exist.
        """
        from headrace.training.report import read_report

        with Workspace(self.settings) as workspace:
            versions = workspace.registry
            return read_report(versions.bundle(model, versions.version(model, version).version))

    def send(
        self, topic: str, file: str | Path, *, shift_to_now: bool = False, live: bool = False
    ) -> SendReport:
        """headrace send: puts the events of a file on a topic, as history unless they are `live`."""
        from headrace.flows.events.send import send

        with Workspace(self.settings) as workspace:
            return send(workspace, topic, Path(file), shift_to_now=shift_to_now, live=live)

    def ingest(self, *topics: str) -> IngestReport:
        """headrace ingest --until-end: moves the events on the log into tables and online state."""
        from headrace.flows.events.ingest import ingest

        with Workspace(self.settings) as workspace:
            return ingest(workspace, topics, until_end=True)

    def build(
        self,
        *targets: str,
        override: str | None = None,
        full: bool = False,
        days: tuple[date, date] | None = None,
        progress: Progress | None = None,
    ) -> BuildReport:
        """headrace build: brings the targets up to date.

        Args:
            targets: tables, models or stages; by default everything.
            override: the reason to release a version that the gate refuses.
            full: whether all of the target tables is made again, stale or not.
            days: the first and the last day of the one target table to make, stale or not.
            progress: called with each stage, when it begins and when it is done.
        """
        from headrace.flows.build import build, silent
        from headrace.tables.range import BuildRange

        only = BuildRange(*days) if days else BuildRange() if full else None
        with Workspace(self.settings) as workspace:
            return build(workspace, targets, override=override, only=only, progress=progress or silent)

    @contextmanager
    def up(self) -> Iterator[Up]:
        """headrace up: runs the project during the block, which begins when every server answers."""
        from headrace.runtime.background import run_in_background

        with run_in_background(self.settings) as state:
            yield state

    def status(self) -> Status:
        """headrace status: what is stale and why, what runs, how fresh it is."""
        from headrace.flows.project.status import status

        with Workspace(self.settings) as workspace:
            return status(workspace)

    def lineage(self, name: str) -> Node:
        """headrace lineage NAME: what a released model, a version of it (`churn@2`) or a table was made from.

        Raises:
            CallError: no run that wrote it has been recorded.
        """
        from headrace.flows.trace.lineage import lineage

        with Workspace(self.settings) as workspace:
            return lineage(workspace, name)

    def runs(self, job: str | None = None, *, limit: int = 50) -> list[RunRow]:
        """headrace lineage: the newest runs, of all jobs or of one such as `train churn`."""
        with Workspace(self.settings) as workspace:
            return workspace.lineage.runs(job, limit=limit)

    def __repr__(self) -> str:
        return f"<project {self.settings.project} on {self.settings.profile_name}: {self.settings.root}>"
