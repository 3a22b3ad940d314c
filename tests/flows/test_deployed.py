"""The state of deployed models, as status shows it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.serving.mlflow_models.model import MODEL

from headrace.config.settings import Settings, load_settings
from headrace.flows.models.deployed import DeployedStatus, read_deployed
from headrace.kernel.process import mark_of
from headrace.serving.mlflow_models import model_set
from headrace.serving.mlflow_models.model_set import ModelSet
from headrace.serving.mlflow_models.options import Autoscaling, ServingOptions
from headrace.serving.mlflow_models.states import Problem, ReplicaState, make_replica_folder, write_problems

IDLE = msgspec.structs.replace(MODEL, options=ServingOptions("iris", autoscaling=Autoscaling(0, 2)))
DOWN = Problem("it has no room", has_failed=True, is_answered=False)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "headrace.toml").write_text('[project]\nname = "tiny"\n')
    return load_settings(tmp_path)


def status_of(settings: Settings, models: ModelSet) -> DeployedStatus:
    (status,) = read_deployed(settings, models, is_running=True)
    return status


def put_replica(settings: Settings, **changes: Any) -> None:
    state = ReplicaState(
        name="iris",
        model="iris",
        version=1,
        python="3.9.18",
        digest=MODEL.digest,
        replica=mark_of(),
        pid=os.getpid(),
        is_ready=True,
        restarts=0,
        failure=None,
        log="model.log",
    )
    make_replica_folder(settings, "iris").write(msgspec.structs.replace(state, **changes))


def test_a_model_is_ready_if_a_replica_answers(settings: Settings) -> None:
    models = model_set.make([MODEL], by="me")
    assert status_of(settings, models).state == "starting"
    put_replica(settings, is_ready=False, failure="it died", restarts=1)
    status = status_of(settings, models)
    assert (status.state, status.note, status.restarts, status.replicas) == ("down", "it died", 1, 0)
    put_replica(settings)
    status = status_of(settings, models)
    assert (status.state, status.python, status.replicas) == ("ready", "3.9.18", 1)
    assert status.memory > 0
    assert status.logs == ("model.log", "model.log")
    (stopped,) = read_deployed(settings, models, is_running=False)
    assert (stopped.state, stopped.note, stopped.memory) == ("not running", "", 0)


def test_a_model_that_serve_cannot_start_is_down_for_this_set_alone(settings: Settings) -> None:
    models, later = model_set.make([MODEL], by="me"), model_set.make([MODEL], by="me")
    write_problems(settings, models.id, {"iris": DOWN})
    assert (status_of(settings, models).state, status_of(settings, models).note) == ("down", DOWN.what)
    assert (status_of(settings, later).state, status_of(settings, later).note) == ("starting", "")
    put_replica(settings)  # the version before still answers
    assert (status_of(settings, models).state, status_of(settings, models).note) == ("ready", DOWN.what)


def test_a_model_that_is_scaled_to_zero_is_idle(settings: Settings) -> None:
    models = model_set.make([IDLE], by="me")
    assert status_of(settings, models).state == "idle"
    put_replica(settings, digest=IDLE.digest, is_ready=False)
    assert status_of(settings, models).state == "starting"
