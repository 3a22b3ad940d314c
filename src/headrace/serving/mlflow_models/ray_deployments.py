"""The deployments of MLflow models on Ray Serve: one a model, all in the application of the endpoint."""

from __future__ import annotations

import re
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
from headrace.serving.mlflow_models.states import Problem

if TYPE_CHECKING:
    from ray.serve import Application

__all__ = ["bind_model", "explain_failure", "find_problems", "make_ask"]

_PREFIX = "model-"
_FAILED = ("DEPLOY_FAILED", "UNHEALTHY")
_OWN_ERROR = "\nheadrace.kernel.errors."  # in the traceback of a replica
_UNSCHEDULED = re.compile(
    r"to be scheduled\..*required for each replica: (?P<required>.*),"
    r" total resources available: (?P<free>.*?)\. ",
    re.DOTALL,
)
_MAX_ONGOING = 100  # requests that a replica may have in progress
_GRACE = 10.0  # seconds that a replica has to answer what it accepted


def bind_model(settings: Settings, model: DeployedModel, attempt: int, quiet: Mapping[str, Any]) -> Application:
    """The deployment of a model. Replicas that run are kept unless what they run changes.

    Args:
        settings: the project's settings.
        model: the model.
        attempt: how often Serve gave it up; another number makes Serve try again.
        quiet: Serve's logging configuration.
    """
    from ray import serve

    options = model.options
    # pandas guesses the types of a frame without a signature, so no other client's rows may be in it.
    max_batch_size = 1 if model.signature.columns is None else options.max_batch_size
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
        user_config={"max_batch_size": max_batch_size},
        max_ongoing_requests=_MAX_ONGOING,
        graceful_shutdown_timeout_s=_GRACE,
        graceful_shutdown_wait_loop_s=0.1,
        max_surge_percent=100,  # an old replica answers until the new one does
        logging_config=dict(quiet),
        **scaling,
    )(ModelReplica)
    version = f"{model.digest} {attempt}" if attempt else model.digest
    return set_version(deployment, version).bind(settings, model)


def find_problems(application: str) -> dict[str, Problem]:
    """Model → why Serve cannot run it. A model that only takes long to start is not among them."""
    from ray import serve

    running = serve.status().applications.get(application)
    deployments = running.deployments if running is not None else {}
    return {
        name.removeprefix(_PREFIX): Problem(
            explain_failure(status.message),
            has_failed=status.status.value == "DEPLOY_FAILED",
            is_answered=status.replica_states.get("RUNNING", 0) > 0,
        )
        for name, status in deployments.items()
        if name.startswith(_PREFIX)
        and (status.status.value in _FAILED or _UNSCHEDULED.search(status.message) is not None)
    }


def explain_failure(message: str) -> str:
    """What Serve reports about a deployment, in a line: our own error in place of the traceback that ends with
    it, and otherwise the last line."""
    unscheduled = _UNSCHEDULED.search(message)
    if unscheduled is not None:
        return "Ray has no room for it: a replica requires {required}, and {free} are free".format(
            **unscheduled.groupdict()
        )
    _, own, text = message.rpartition(_OWN_ERROR)
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    if not own:
        return lines[-1] if lines else ""
    lines[0] = lines[0].partition(": ")[2]  # without the error's name
    return ". ".join(line.rstrip(".") for line in lines)


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
