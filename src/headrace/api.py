"""The Python API: the commands of the command line as methods of `headrace.project()`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headrace.config.settings import Settings, load_settings
from headrace.kernel.errors import CallError
from headrace.workspace import Workspace

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

    from headrace.flows.build import BuildReport, Progress
    from headrace.flows.events.ingest_report import IngestReport
    from headrace.flows.events.send import SendReport
    from headrace.flows.models.backtest import BacktestReport
    from headrace.flows.models.deploy import DeployReport
    from headrace.flows.models.outcomes import OutcomesReport
    from headrace.flows.project.status import Status
    from headrace.flows.project.table_tags import TableVersion
    from headrace.flows.trace.why import Why
    from headrace.lake import VisibleTables
    from headrace.lineage import RunRow
    from headrace.lineage.graph import Node
    from headrace.projects.running import Up
    from headrace.serving.release import Release
    from headrace.training.report import TrainingReport

__all__ = ["OpenProject", "Rows", "project"]


def project(folder: str | Path | None = None, *, profile: str | None = None) -> OpenProject:
    """Opens the project in `folder`, by default the one around the working folder.

    Raises:
        ProjectError: there is no project, its settings are wrong, or the profile does not exist.
    """
    return OpenProject(load_settings(None if folder is None else Path(folder), profile))


class Rows:
    """A table of the lake at one snapshot. Later writes to the table do not change it.

    Attributes:
        name: the name of the table.
        snapshot: the id of the snapshot.
    """

    def __init__(self, tables: VisibleTables, name: str, at: int | str | datetime | None) -> None:
        self.name = name
        head = tables.snapshot(name, at)
        if head is None:
            raise CallError(f"table {name!r} has no rows yet", remedy="headrace build makes it.")
        self._table = tables.table(name)
        self.snapshot = head.id

    def lazy(self) -> pl.LazyFrame:
        """The rows as a lazy frame: filters and column choices reach the files."""
        return self._table.scan(self.snapshot)

    def to_polars(self) -> pl.DataFrame:
        """The rows as a Polars frame."""
        return self.lazy().collect()

    def to_arrow(self) -> pa.Table:
        """The rows as an Arrow table."""
        return self.to_polars().to_arrow()

    def __repr__(self) -> str:
        return f"<table {self.name} at snapshot {self.snapshot}>"


class _Serving:
    """The commands of models that are served."""

    settings: Settings

    def predict(
        self,
        model: str,
        *,
        explain: bool = False,
        as_of: datetime | None = None,
        version: int | None = None,
        **values: Any,
    ) -> dict[str, Any]:
        """headrace predict: asks the running endpoint for one prediction.

        Args:
            model: the name of the model.
            explain: whether to add the features as the model saw them.
            as_of: an aware datetime: the past moment to answer for.
            version: the version that answers for the past moment; by default the one that answered then.
            values: entity keys and request fields.

        Raises:
            Unavailable: the endpoint does not run, or the moment is not ingested yet.
            CallError: a field is not valid, the model is not released, or nothing is known of the moment.
        """
        from headrace.flows.models.predict import predict

        return predict(self.settings, model, values, explain=explain, as_of=as_of, version=version)

    def backtest(
        self,
        model: str,
        version: int,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        by: str | None = None,
        limit: int | None = None,
        threshold: float | None = None,
    ) -> BacktestReport:
        """headrace backtest: answers logged requests by a version, and compares the answers with the logged
        ones. The report has a row for each request, and shows itself as a table in a notebook.

        Args:
            model, version: the version, which need not be released.
            since, until: the first moment, and the first one after the last; aware datetimes.
            by: the field whose values are slices: an entity key, a field of the request, a feature, `arm` or
                `version`.
            limit: the greatest number of requests; the newest are replayed.
            threshold: the probability from which on a binary model's answer counts as yes; by default the one
                that the model declares.

        Raises:
            CallError: the version or the field does not exist, or no request of that time has been ingested.
        """
        from headrace.flows.models.backtest import backtest

        with Workspace(self.settings) as workspace:
            return backtest(
                workspace, model, version, since=since, until=until, by=by, limit=limit, threshold=threshold
            )

    def outcomes(self, model: str) -> OutcomesReport:
        """headrace outcomes: the model's predictions with what really happened, a row for each prediction, and
        how good each version is in truth.

        Raises:
            CallError: the model declares no outcomes, or no prediction or outcome was ever ingested.
        """
        from headrace.flows.models.outcomes import outcomes

        with Workspace(self.settings) as workspace:
            return outcomes(workspace, model)

    def deploy(self, file: str | Path, *, dry_run: bool = False, prune: bool = False) -> DeployReport:
        """headrace deploy: serves the MLflow models that a file selects.

        Args:
            file: the file, relative to the project's folder.
            dry_run: whether to plan only.
            prune: whether models that the file does not select are removed.
        """
        from headrace.flows.models.deploy import deploy

        with Workspace(self.settings) as workspace:
            return deploy(workspace, self.settings.root / file, dry_run=dry_run, prune=prune)

    def roll_back_models(self) -> DeployReport:
        """headrace deploy --rollback: serves the MLflow models of the deployment before."""
        from headrace.flows.models.deploy import roll_back_models

        with Workspace(self.settings) as workspace:
            return roll_back_models(workspace)

    def why(self, prediction: str, *, events: int = 20) -> Why:
        """headrace why: traces a prediction back to its raw events.

        Args:
            prediction: the `id` of an answer.
            events: how many raw events are listed for each view.
        """
        from headrace.flows.trace.why import why

        with Workspace(self.settings) as workspace:
            return why(workspace, prediction, events=events)

    def release(self, model: str, *arms: str, why: str = "", override: bool = False) -> Release:
        """headrace release: divides the model's traffic, such as `champion=1`, `challenger=2:0.5`, `shadow=3`.

        Args:
            model: the name of the model.
            arms: ARM=VERSION, or ARM=VERSION:SHARE. Without a champion the present one stays.
            why: the reason.
            override: whether a version that the gate refused may get traffic.

        Raises:
            CallError: an arm is not valid, or the model or a version does not exist.
            Refused: the gate refused a version, or a version failed its trial.
        """
        from headrace.flows.models.release import release

        with Workspace(self.settings) as workspace:
            return release(workspace, model, arms, why=why, override=override)

    def rollback(self, model: str, *, why: str = "") -> Release:
        """headrace rollback: puts the previous release in force again.

        Raises:
            CallError: the model has no previous release.
        """
        from headrace.flows.models.release import rollback

        with Workspace(self.settings) as workspace:
            return rollback(workspace, model, why=why)


class OpenProject(_Serving):
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

    def tables(self, *names: str, at: int | str | datetime | None = None) -> list[Rows]:
        """Several tables as readers see them at one moment: a build that ends meanwhile does not count.

            facts, users = headrace.project().tables("facts", "users")

        Args:
            names: the names of the tables.
            at: as for `table`: a moment, or a tag that all of them have.

        Raises:
            CallError: as `table`.
        """
        with Workspace(self.settings) as workspace:
            return [Rows(workspace.visible, name, at) for name in names]

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
