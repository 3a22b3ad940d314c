"""The part of the Python API about models that are served: predict, score, compare, release, trace."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headrace.config.settings import Settings
from headrace.kernel.errors import CallError
from headrace.kernel.html import html_pairs
from headrace.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    import pyarrow as pa

    from headrace.flows.models.backtest import BacktestReport
    from headrace.flows.models.deploy import DeployReport
    from headrace.flows.models.outcomes import OutcomesReport
    from headrace.flows.trace.why import Why
    from headrace.serving.release import Release

__all__ = ["PredictAnswer", "ServingCalls"]


class PredictAnswer(dict[str, Any]):
    """The answer of the endpoint, as its JSON has it: `id`, `model`, `version`, `arm`, `value`, `missing`, and
    `features` if they were asked for."""

    def _repr_html_(self) -> str:
        """The answer for a notebook."""
        features = self.get("features") or {}
        pairs = [(name, value) for name, value in self.items() if name != "features"]
        return html_pairs(f"Prediction of {self.get('model')}", [*pairs, *features.items()])


class ServingCalls:
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
    ) -> PredictAnswer:
        """headrace predict: asks the running endpoint for one prediction.

        The answer is a dict, which a notebook shows as a table.

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

        return PredictAnswer(
            predict(self.settings, model, values, explain=explain, as_of=as_of, version=version)
        )

    def score(
        self,
        model: str,
        frame: pl.DataFrame | pa.Table | pd.DataFrame,
        *,
        version: int | str = "champion",
        time: str | None = None,
        explain: bool = False,
    ) -> pl.DataFrame:
        """headrace score: predicts each row of a frame here, without the endpoint. Nothing is logged.

            headrace.project().score("purchase", pl.DataFrame({"user_id": [1, 2], "price": [9.9, 5.0]}))

        Features are joined from the tables as for a training set, and equal those of the endpoint at the same
        position.

        Args:
            model: the name of the model.
            frame: a Polars, pandas or Arrow table of n rows: a column for each entity key and request field of
                the model. Other columns are kept.
            version: the number or alias of the version, which need not be released.
            time: the column with each row's moment, an aware datetime; by default `event_timestamp`, if the
                frame has it. Without such a column the rows are predicted as of now.
            explain: whether to add a column `view__feature` for each feature, as the model saw it.

        Returns:
            The frame with n rows and the columns `value` (a float, or of a model with classes the label),
            `probabilities` (a struct of a float for each class, of a model with classes), `missing` (the names
            of features that were missing), `error` (why there is no value, else null) and `version`.

        Raises:
            CallError: the model or version does not exist, a row lacks a field or has a wrong value (the error
                names the row, from 1 on, and the field), or the frame has a column with the name of a new one.
            Unavailable: events from before the last row's moment are not in their tables yet.
            Refused: the version's bundle was changed.
        """
        from headrace.flows.models.score import add_scores, score

        rows = _to_polars(frame)
        with Workspace(self.settings) as workspace:
            scores = score(workspace, model, rows.to_dicts(), version=version, time=time)
        return add_scores(rows, scores, explain=explain)

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


def _to_polars(frame: Any) -> pl.DataFrame:
    import polars as pl

    if isinstance(frame, pl.DataFrame):
        return frame
    if isinstance(frame, pl.LazyFrame):
        return frame.collect()
    try:
        rows = pl.DataFrame(frame) if hasattr(frame, "__arrow_c_stream__") else pl.from_pandas(frame)
    except (TypeError, ValueError, pl.exceptions.PolarsError) as error:
        raise CallError(
            f"a {type(frame).__name__} is not a frame: {error}",
            remedy="Give a Polars, pandas or Arrow table.",
        ) from error
    return rows
