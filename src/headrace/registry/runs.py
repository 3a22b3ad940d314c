"""Logs a bundle to the MLflow run that a version is made from: its files, metrics and parameters."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headrace.kernel import faults
from headrace.kernel.properties import BUNDLE_DIGEST, RUN
from headrace.registry.bundles import ARTIFACT
from headrace.registry.client import MlflowConnection

__all__ = ["log_bundle"]


def log_bundle(
    mlflow: MlflowConnection,
    model: str,
    bundle: Path,
    metrics: Mapping[str, float],
    params: Mapping[str, Any],
    tags: Mapping[str, str],
    parent_run: str | None,
) -> str:
    """Logs the bundle to a run and returns the run's id.

    If an earlier process began a run with the same digest, that run is completed.

    Args:
        mlflow: the connection.
        model: the name of the model, which becomes part of the run's name.
        bundle: the bundle's folder.
        metrics, params, tags: those of the run; the tags include the bundle's digest.
        parent_run: the MLflow run to nest the run in; None for the MLflow run of the run that the tag
            `headrace.run` names, if it exists.
    """
    from mlflow.entities import Metric, Param
    from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME

    client, experiment = mlflow.client, mlflow.experiment
    run_id = _find_run(mlflow, BUNDLE_DIGEST, tags[BUNDLE_DIGEST])
    if run_id is None:
        outer = parent_run or _find_run(mlflow, RUN, tags.get(RUN))
        nested = {MLFLOW_PARENT_RUN_ID: outer} if outer else {}
        run = client.create_run(experiment, tags={**tags, **nested, MLFLOW_RUN_NAME: f"version of {model}"})
        run_id = str(run.info.run_id)
    faults.reach("registry.before_files")
    client.log_artifacts(run_id, str(bundle), ARTIFACT)
    moment = int(client.get_run(run_id).info.start_time)
    client.log_batch(
        run_id,
        metrics=[Metric(name, float(value), moment, 0) for name, value in metrics.items()],
        params=[Param(name, str(value)) for name, value in params.items()],
    )
    client.set_terminated(run_id)
    return run_id


def _find_run(mlflow: MlflowConnection, tag: str, value: str | None) -> str | None:
    """The id of the run with this tag, if there is one."""
    if value is None:
        return None
    runs = mlflow.client.search_runs([mlflow.experiment], f"tags.`{tag}` = '{value}'", max_results=1)
    return str(runs[0].info.run_id) if runs else None
