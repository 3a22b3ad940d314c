"""Served models: the MLflow models in force, as the endpoint sees them. It follows the record of the sets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from headrace import log as logs
from headrace.config.settings import Settings
from headrace.kernel.errors import Unavailable
from headrace.kernel.files import write_file
from headrace.kernel.ids import new_id
from headrace.kernel.private import make_private
from headrace.kernel.time import from_micros, now_micros
from headrace.serving.errors import unknown_version
from headrace.serving.mlflow_models.model_set import DeployedModel, ModelSet, ModelSetFollower
from headrace.serving.mlflow_models.process import Columns
from headrace.serving.mlflow_models.replica import ReplicaAnswer
from headrace.serving.mlflow_models.signature import Signature, SignatureSchema, to_columns
from headrace.serving.mlflow_models.states import read_problems
from headrace.serving.prediction import Prediction

__all__ = ["Ask", "FollowedModelSet", "ServedModel", "ServedModels"]

_SLACK = 5.0  # seconds that a request may take beside the model: queues, Ray
Ask = Callable[[str, Signature, Columns], Awaitable[ReplicaAnswer]]
"""Asks a replica of the model with this name. The request fits this signature."""


class FollowedModelSet:
    """The model set in force: from the log, or as it was last seen here while the log cannot be reached.

    Attributes:
        current: the set in force; None: there is none.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._file = settings.place("serving", "model_set.json")
        self._log: logs.Log | None = None
        self._follower: ModelSetFollower | None = None
        self.current: ModelSet | None = None
        if not self.poll():
            self.current = _read(self._file)

    def poll(self) -> bool:
        """Reads what was deployed since the last poll. Returns False while the log cannot be reached."""
        try:
            if self._log is None or self._follower is None:
                self._log = logs.open(self._settings.log.url)
                self._follower = ModelSetFollower(self._log)
            if self._follower.poll():
                self.current = self._follower.in_force
                make_private(self._file.parent)
                write_file(self._file, msgspec.json.encode(self.current))
        except Unavailable:
            return False
        return True

    def close(self) -> None:
        """Closes the connection."""
        if self._log is not None:
            self._log.close()


class ServedModel:
    """An MLflow model that answers.

    Attributes:
        schema: the fields of an instance.
        deployed: its record.
        is_down: whether it has no replica and Serve cannot start one.
    """

    def __init__(self, deployed: DeployedModel, set_id: str, ask: Ask) -> None:
        self.is_down = False
        self.deployed = deployed
        self.schema = SignatureSchema(deployed.signature)
        self._set_id, self._ask = set_id, ask

    @property
    def versions(self) -> list[int]:
        """The version that answers."""
        return [self.deployed.version]

    def check_version(self, version: str | None) -> None:
        """Raises UnknownVersion if a request names another version."""
        if version is not None and version != str(self.deployed.version):
            raise unknown_version(self.deployed.name, version, self.versions)

    async def predict(self, instances: Sequence[Mapping[str, Any]]) -> list[Prediction]:
        """Predicts the instances.

        Raises:
            ModelFailed, ModelTimeout: the model failed on the request, or did not answer in time.
            Unavailable: no replica answers.
        """
        started, at = time.perf_counter(), now_micros()
        name = self.deployed.name
        if self.is_down:
            raise Unavailable(f"model {name!r} cannot be started; headrace status says why")
        try:
            async with asyncio.timeout(2 * self.deployed.timeout + _SLACK):
                answer = await self._ask(name, self.deployed.signature, to_columns(instances))
        except TimeoutError:
            raise Unavailable(f"no replica of model {name!r} answers") from None
        if answer.values is None:
            assert answer.error is not None
            raise answer.error
        latency_ms = (time.perf_counter() - started) * 1_000
        return [
            Prediction(
                id=new_id(),
                model=name,
                version=answer.version,
                plan="",
                arm="deployed",
                shadow=False,
                at=from_micros(at),
                instance=index,
                entity={},
                request=dict(instance),
                features={},
                value=value,
                latency_ms=latency_ms,
                missing=[],
                positions={},
                release=self._set_id,
            )
            for index, (instance, value) in enumerate(zip(instances, answer.values, strict=True))
        ]


class ServedModels:
    """The MLflow models that the endpoint answers for.

    Args:
        settings: the project's settings.
        ask: asks a replica.

    Attributes:
        models: name → model. The mapping is replaced, never changed.
    """

    def __init__(self, settings: Settings, ask: Ask) -> None:
        self._settings, self._ask = settings, ask
        self._set = FollowedModelSet(settings)
        self.models: dict[str, ServedModel] = {}
        self._set_id = ""
        self._update()

    def poll(self) -> None:
        """Takes the set in force."""
        self._set.poll()
        self._update()

    def close(self) -> None:
        """Closes the connection to the log."""
        self._set.close()

    def _update(self) -> None:
        current = self._set.current
        if current is not None and current.id != self._set_id:
            self.models = {model.name: ServedModel(model, current.id, self._ask) for model in current.models}
            self._set_id = current.id
        problems = read_problems(self._settings, self._set_id) if self.models else {}
        for name, model in self.models.items():
            model.is_down = name in problems and not problems[name].is_answered


def _read(path: Path) -> ModelSet | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=ModelSet)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
