"""The deployments of MLflow models on Ray Serve: one a model, all in the application of the endpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from headrace.cluster.internals import set_version
from headrace.config.settings import Settings
from headrace.serving.mlflow_models.model_set import DeployedModel
from headrace.serving.mlflow_models.process import Columns
from headrace.serving.mlflow_models.replica import ModelReplica, ReplicaAnswer
from headrace.serving.mlflow_models.served import Ask
from headrace.serving.mlflow_models.signature import Signature

if TYPE_CHECKING:
    from ray.serve import Application

__all__ = ["bind_model", "find_problems", "make_ask"]

_PREFIX = "model-"
_MAX_ONGOING = 100  # requests that a replica may have in progress
_GRACE = 10.0  # seconds that a replica has to answer what it accepted


def bind_model(settings: Settings, model: DeployedModel, quiet: Mapping[str, Any]) -> Application:
    """The deployment of a model. Replicas that run are kept unless what they run changes.

    Args:
        settings: the project's settings.
        model: the model.
        quiet: Serve's logging configuration.
    """
    from ray import serve

    options = model.options
    actor: dict[str, Any] = {"num_cpus": options.num_cpus}
    if options.memory:
        actor["memory"] = options.memory
    scaling = (
        {"num_replicas": options.num_replicas}
        if options.autoscaling is None
        else {"autoscaling_config": msgspec.to_builtins(options.autoscaling)}
    )
    deployment = serve.deployment(
        name=_deployment_name(model.name),
        ray_actor_options=actor,
        user_config={"max_batch_size": options.max_batch_size},
        max_ongoing_requests=_MAX_ONGOING,
        graceful_shutdown_timeout_s=_GRACE,
        graceful_shutdown_wait_loop_s=0.1,
        max_surge_percent=100,  # an old replica answers until the new one does
        logging_config=dict(quiet),
        **scaling,
    )(ModelReplica)
    return set_version(deployment, model.digest).bind(settings, model)


def find_problems(application: str) -> dict[str, str]:
    """Model → what Serve reports about its deployment, if it is not healthy."""
    from ray import serve

    running = serve.status().applications.get(application)
    deployments = running.deployments if running is not None else {}
    return {
        name.removeprefix(_PREFIX): f"{status.status.value.lower()}: {status.message}"
        for name, status in deployments.items()
        if name.startswith(_PREFIX) and status.message and status.status.value != "HEALTHY"
    }


def make_ask(application: str) -> Ask:
    """The function by which a replica of the endpoint asks the replicas of models."""
    from ray import serve

    handles: dict[str, Any] = {}

    async def ask(name: str, signature: Signature, columns: Columns) -> ReplicaAnswer:
        handle = handles.get(name)
        if handle is None:
            handle = handles[name] = serve.get_deployment_handle(_deployment_name(name), application)
        answer: ReplicaAnswer = await handle.predict.remote(signature, columns)
        return answer

    return ask


def _deployment_name(name: str) -> str:
    return f"{_PREFIX}{name}"
