"""Deployments on Ray Serve: what Serve gets of a model's tags, and what of its reports becomes a line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.serving.mlflow_models.model import MODEL

from headrace.config.settings import load_settings
from headrace.serving.mlflow_models.options import read_options
from headrace.serving.mlflow_models.ray_deployments import bind_model, explain_failure
from headrace.serving.mlflow_models.signature import Column, Signature

TRACEBACK = """The deployment failed to start 3 times in a row. See controller logs for details. Error:
ray::ServeReplica:predict:model-tiny.initialize_and_get_metadata() (pid=1, ip=127.0.0.1)
RuntimeError: Traceback (most recent call last):
  File "artifacts.py", line 50, in find_artifact
    raise Refused(
headrace.kernel.errors.Refused: /state/artifacts/0: a file of its artefact was changed
  Run headrace deploy.
"""
UNSCHEDULED = (
    "Deployment 'model-tiny' in application 'predict' has 1 replicas that have taken more than 30s to be"
    " scheduled. This may be due to waiting for the cluster to auto-scale or for a runtime environment to be"
    ' installed. Resources required for each replica: {"CPU": 64.0}, total resources available: {"CPU": 0.5}.'
    " Use `ray status` for more details."
)


@pytest.mark.parametrize(
    ("message", "line"),
    [
        (TRACEBACK, "/state/artifacts/0: a file of its artefact was changed. Run headrace deploy"),
        (
            UNSCHEDULED,
            'Ray has no room for it: a replica requires {"CPU": 64.0}, and {"CPU": 0.5} are free',
        ),
        ("A replica's health check failed.\nIt is started again.\n", "It is started again."),
        ("", ""),
    ],
)
def test_a_failure_is_explained_in_a_line(message: str, line: str) -> None:
    assert explain_failure(message) == line


def bind(folder: Path, attempt: int = 0, signature: Signature = MODEL.signature, **tags: str) -> Any:
    """The Serve deployment of a model with these tags."""
    (folder / "headrace.toml").write_text('[project]\nname = "tiny"\n')
    options = read_options("iris", {f"ray.{tag.replace('__', '.')}": value for tag, value in tags.items()})
    model = msgspec.structs.replace(MODEL, options=options, signature=signature)
    return bind_model(load_settings(folder), model, attempt, {})._bound_deployment


def test_serve_gets_what_the_tags_say(tmp_path: Path) -> None:
    deployment = bind(
        tmp_path,
        name="flowers",
        ray_actor_options__num_cpus="1.5",
        ray_actor_options__memory="0.25",
        autoscaling_config__min_replicas="0",
        autoscaling_config__max_replicas="3",
        autoscaling_config__target_ongoing_requests="2.5",
        user_config__max_batch_size="16",
    )
    assert deployment.name == "model-flowers"
    assert (deployment.ray_actor_options["num_cpus"], deployment.ray_actor_options["memory"]) == (
        1.5,
        250_000_000,
    )
    scaling = deployment._deployment_config.autoscaling_config
    assert (scaling.min_replicas, scaling.max_replicas, scaling.target_ongoing_requests) == (0, 3, 2.5)
    assert deployment.user_config == {"max_batch_size": 16}


@pytest.mark.parametrize(
    ("signature", "size"),
    [(Signature(), 1), (Signature([Column("x", "long")]), 16), (Signature([Column("0", "long")], "int64"), 16)],
)
def test_only_requests_with_declared_types_share_a_call(
    tmp_path: Path, signature: Signature, size: int
) -> None:
    deployment = bind(tmp_path, signature=signature, user_config__max_batch_size="16")
    assert deployment.user_config == {"max_batch_size": size}


def test_without_scaling_serve_gets_a_number_of_replicas(tmp_path: Path) -> None:
    deployment = bind(tmp_path, num_replicas="4")
    assert deployment.num_replicas == 4
    assert deployment._deployment_config.autoscaling_config is None


def test_another_attempt_is_another_version_to_serve(tmp_path: Path) -> None:
    first, same, again = bind(tmp_path), bind(tmp_path, num_replicas="2"), bind(tmp_path, attempt=1)
    assert first.version == same.version != again.version
