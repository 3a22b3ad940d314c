"""Model sets: which MLflow models are served and how, as records on topic `headrace.model_sets`.

The topic is the history: its last record is in force, and a rollback restores the one before.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from headrace.declare.event import event
from headrace.kernel.digest import digest_value
from headrace.kernel.errors import CallError
from headrace.kernel.ids import new_id
from headrace.kernel.time import now
from headrace.log.follow import TopicFollower
from headrace.serving.history import append_record, find_previous
from headrace.serving.mlflow_models.needs import Needs
from headrace.serving.mlflow_models.options import ServingOptions
from headrace.serving.mlflow_models.signature import Signature

if TYPE_CHECKING:
    from headrace.log import Log

__all__ = [
    "TOPIC",
    "DeployedModel",
    "ModelSet",
    "ModelSetFollower",
    "append",
    "history",
    "make",
    "make_rollback",
]

TOPIC = "headrace.model_sets"


class DeployedModel(Struct, frozen=True):
    """A version of an MLflow model that is served.

    Attributes:
        model, version: its registered name and the number of the version.
        source: MLflow's address of its artefact.
        artifact: the digest of the artefact's files, which names its folder.
        needs: the Python and the packages that it needs.
        signature: what it takes.
        options: how it is served, the name in its paths included.
        timeout: seconds within which it must answer a request.
    """

    model: str
    version: int
    source: str
    artifact: str
    needs: Needs
    signature: Signature
    options: ServingOptions
    timeout: float

    @property
    def name(self) -> str:
        """The name in its paths."""
        return self.options.name

    @property
    def is_scaled_to_zero(self) -> bool:
        """Whether it has no replica while nobody asks it."""
        scaling = self.options.autoscaling
        return scaling is not None and scaling.min_replicas == 0

    @property
    def digest(self) -> str:
        """A digest of all that a running replica cannot change. Replicas of another digest are replaced."""
        record = msgspec.to_builtins(self)
        options = record.pop("options")
        return digest_value([record, options["env_vars"]])


@event(topic=TOPIC, time="at", identity=["id"], dedup_within="1d")
class ModelSet(Struct, frozen=True):
    """The MLflow models that are served from `at` on.

    Attributes:
        id: a UUIDv7.
        models: the models, ordered by the name in their paths.
        by: the person or the flow that deployed.
        at: the time of the deployment.
        restores: for a rollback, the id of the set whose models it restores.
    """

    id: str
    models: list[DeployedModel]
    by: str
    at: datetime
    restores: str | None = None


def make(models: Sequence[DeployedModel], *, by: str, restores: str | None = None) -> ModelSet:
    """Makes a set with the present time. It is not in force before `append`."""
    return ModelSet(new_id(), sorted(models, key=lambda model: model.name), by, now(), restores)


def append(log: Log, models: ModelSet) -> None:
    """Puts the set in force. Its record is durable on return.

    Raises:
        Unavailable: it was not recorded, or that is not known (history.append_record).
    """
    append_record(log, TOPIC, models, "models", f"the set of models {models.id}")


def history(log: Log) -> list[ModelSet]:
    """Every set, oldest first."""
    return ModelSetFollower(log).poll()


def make_rollback(log: Log, *, by: str) -> ModelSet:
    """Makes a set with the models of the set before the present one. It is not in force before `append`.

    A rollback after a rollback restores the set before that.

    Raises:
        CallError: there is no set before the present one.
    """
    previous = find_previous(history(log))
    if previous is None:
        raise CallError("there is no earlier set of models to roll back to")
    return make(previous.models, by=by, restores=previous.id)


class ModelSetFollower:
    """Follows the topic of the model sets.

    Attributes:
        in_force: the last set, as of the last poll; None if there was none.
    """

    def __init__(self, log: Log) -> None:
        self._follower = TopicFollower(log, TOPIC, msgspec.json.Decoder(ModelSet).decode)
        self.in_force: ModelSet | None = None

    def poll(self) -> list[ModelSet]:
        """The sets appended since the last poll, oldest first."""
        sets = [record.value for record in self._follower.poll()]
        if sets:
            self.in_force = sets[-1]
        return sets
