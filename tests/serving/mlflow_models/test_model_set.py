"""Model sets: the record of what is served, and the way back through it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from tests.serving.mlflow_models.model import MODEL

from headrace import log as logs
from headrace.kernel.errors import CallError
from headrace.serving.mlflow_models import model_set as sets
from headrace.serving.mlflow_models.model_set import DeployedModel, ModelSet, ModelSetFollower
from headrace.serving.mlflow_models.needs import Needs
from headrace.serving.mlflow_models.options import ServingOptions


def version(number: int) -> DeployedModel:
    return msgspec.structs.replace(MODEL, version=number)


@pytest.fixture
def log(tmp_path: Path) -> logs.Log:
    return logs.open(f"sqlite://{tmp_path / 'log'}")


def put(log: logs.Log, *models: DeployedModel) -> ModelSet:
    new = sets.make(models, by="me")
    sets.append(log, new)
    return new


def roll_back(log: logs.Log) -> list[int]:
    """Rolls back, and returns the versions that are then in force."""
    new = sets.make_rollback(log, by="me")
    sets.append(log, new)
    return [model.version for model in new.models]


def test_the_last_set_is_in_force_and_survives_as_it_was(log: logs.Log) -> None:
    follower = ModelSetFollower(log)
    assert (follower.poll(), follower.in_force) == ([], None)
    first = put(log, version(1))
    second = put(log, version(2))
    assert follower.poll() == [first, second]
    assert follower.in_force == second
    assert sets.history(log) == [first, second]


def test_models_are_ordered_by_name(log: logs.Log) -> None:
    other = msgspec.structs.replace(MODEL, options=ServingOptions("a"))
    assert [model.name for model in put(log, MODEL, other).models] == ["a", "iris"]


def test_a_rollback_restores_the_set_before_and_a_second_the_one_before_that(log: logs.Log) -> None:
    for number in (1, 2, 3):
        put(log, version(number))
    assert roll_back(log) == [2]
    assert roll_back(log) == [1]
    with pytest.raises(CallError, match="there is no earlier set of models"):
        sets.make_rollback(log, by="me")
    put(log, version(4))
    assert roll_back(log) == [1]


def test_without_sets_there_is_nothing_to_restore(log: logs.Log) -> None:
    with pytest.raises(CallError):
        sets.make_rollback(log, by="me")


@pytest.mark.parametrize(
    ("change", "is_replaced"),
    [
        ({}, False),
        ({"num_replicas": 3}, False),
        ({"num_cpus": 1.0, "memory": 5}, False),  # Serve itself replaces replicas of other resources
        ({"max_batch_size": 8}, False),
        ({"env_vars": {"A": "2"}}, True),
    ],
)
def test_replicas_are_replaced_only_if_what_they_run_changes(
    change: dict[str, object], is_replaced: bool
) -> None:
    options = msgspec.structs.replace(MODEL.options, **change)
    assert (msgspec.structs.replace(MODEL, options=options).digest != MODEL.digest) is is_replaced


@pytest.mark.parametrize(
    "change", [{"version": 2}, {"artifact": "b"}, {"needs": Needs("3.9.18", ["x"])}, {"timeout": 1.0}]
)
def test_replicas_of_another_version_are_replaced(change: dict[str, object]) -> None:
    assert msgspec.structs.replace(MODEL, **change).digest != MODEL.digest
