"""The replica of a model, which Ray Serve runs: it holds the model's process and asks it."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack
from typing import Any

from msgspec import Struct

from headrace.cluster.folder import runtime_folder
from headrace.cluster.internals import keep_replica_on_loopback
from headrace.config.settings import Settings
from headrace.http.token import is_loopback
from headrace.kernel.errors import Unavailable
from headrace.kernel.process import mark_of
from headrace.serving.errors import ModelFailed, ModelTimeout
from headrace.serving.mlflow_models.artifacts import find_artifact
from headrace.serving.mlflow_models.batches import Batches
from headrace.serving.mlflow_models.environments import ensure_environment, python_version
from headrace.serving.mlflow_models.folders import artifacts_folder, environments_folder
from headrace.serving.mlflow_models.model_set import DeployedModel
from headrace.serving.mlflow_models.process import Columns, ModelProcess, ProcessSpec
from headrace.serving.mlflow_models.signature import Signature
from headrace.serving.mlflow_models.states import ReplicaState, make_replica_folder

__all__ = ["ModelReplica", "ReplicaAnswer", "make_spec"]

_log = logging.getLogger("headrace.serving")
_INTERVAL = 0.2  # seconds between two looks at the process's state


class ReplicaAnswer(Struct, frozen=True):
    """The answer of a replica, which crosses processes.

    Attributes:
        version: the number of the version that answered. While a version replaces another, it may be either.
        values: the model's answer to each row; None if there is an error.
        error: the error.
    """

    version: int
    values: list[Any] | None = None
    error: Exception | None = None


def make_spec(settings: Settings, model: DeployedModel) -> ProcessSpec:
    """What the model's process runs. Its environment is made if this machine lacks it.

    Raises:
        Refused: its artefact is not here or was changed, or its environment cannot be made.
        Unavailable: the package index cannot be reached.
    """
    artifact = find_artifact(artifacts_folder(settings), model.artifact)
    python = ensure_environment(environments_folder(settings), model.needs)
    return ProcessSpec(model.name, python, artifact, model.signature, model.options.env_vars, model.timeout)


class ModelReplica:
    """A replica of a model. Serve calls `reconfigure` once it is made, and then `predict`.

    Args:
        settings: the project's settings.
        model: the model.
    """

    def __init__(self, settings: Settings, model: DeployedModel) -> None:
        if is_loopback(settings.http.host):
            keep_replica_on_loopback()
        self._settings, self._model = settings, model
        self._process: ModelProcess | None = None
        self._stack = AsyncExitStack()

    async def reconfigure(self, config: dict[str, Any]) -> None:
        """Starts the model's process, unless it runs, and takes the options that change while it runs.

        Raises:
            Refused, Unavailable: the process cannot be started. Serve tries again.
        """
        if self._process is None:
            self._process = await self._start()
            self._batches = Batches(self._process.predict)
        self._batches.max_size = config["max_batch_size"]

    async def predict(self, signature: Signature, columns: Columns) -> ReplicaAnswer:
        """The model's answer to each row of a request that fits a signature."""
        version = self._model.version
        try:
            if signature != self._model.signature:  # the endpoint already knows a version that is not here yet
                raise Unavailable(f"model {self._model.name!r} changes to another version")
            return ReplicaAnswer(version, await self._batches.predict(columns))
        except (ModelFailed, ModelTimeout, Unavailable) as error:
            return ReplicaAnswer(version, error=error)

    async def _start(self) -> ModelProcess:
        spec = await asyncio.to_thread(make_spec, self._settings, self._model)
        self._python = python_version(spec.python)
        folder = make_replica_folder(self._settings, self._model.name)
        self._stack.callback(folder.remove)
        process = await self._stack.enter_async_context(
            ModelProcess(spec, runtime_folder(self._settings), folder.log)
        )
        await process.await_ready()
        self._reporter = asyncio.create_task(self._report(process, folder))
        return process

    async def _report(self, process: ModelProcess, folder: Any) -> None:
        """Writes the state whenever it changes."""
        last = None
        while True:
            state = ReplicaState(
                name=self._model.name,
                model=self._model.model,
                version=self._model.version,
                python=self._python,
                digest=self._model.digest,
                replica=mark_of(),
                pid=process.pid,
                is_ready=process.is_ready,
                restarts=process.restarts,
                failure=process.failure,
                log=str(folder.log),
            )
            if state != last:
                folder.write(state)
                last = state
            await asyncio.sleep(_INTERVAL)

    async def __del__(self) -> None:
        if self._process is not None:
            self._reporter.cancel()
        await self._stack.aclose()
