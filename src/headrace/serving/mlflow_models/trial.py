"""Trial: prepares a model and starts its process as a replica would, before it is deployed."""

from __future__ import annotations

import asyncio
from pathlib import Path

from headrace.cluster.folder import runtime_folder
from headrace.config.settings import Settings
from headrace.kernel.errors import Refused, Unavailable
from headrace.kernel.scratch import make_scratch
from headrace.serving.mlflow_models.artifacts import is_intact
from headrace.serving.mlflow_models.folders import artifacts_folder
from headrace.serving.mlflow_models.model_set import DeployedModel
from headrace.serving.mlflow_models.process import ModelProcess, ProcessSpec
from headrace.serving.mlflow_models.replica import make_spec

__all__ = ["try_model"]


def try_model(settings: Settings, model: DeployedModel) -> None:
    """Makes the model's environment if it is missing, starts the model's process, and ends it.

    Raises:
        Refused: the environment cannot be made, or the model cannot be loaded.
        Unavailable: the package index cannot be reached.
    """
    spec = make_spec(settings, model)
    with make_scratch() as folder:
        try:
            asyncio.run(_start(spec, runtime_folder(settings), folder / "model.log"))
        except Unavailable as error:
            reason = error.what.replace(str(folder), "").removesuffix(" (/model.log)")
            raise Refused(reason) from error
    if not is_intact(artifacts_folder(settings), model.artifact):
        raise Refused(
            "the model changes files of its artefact when it is loaded, and its replicas share them",
            remedy="Make it write elsewhere, such as into the folder of the module tempfile.",
        )


async def _start(spec: ProcessSpec, sockets: Path, log: Path) -> None:
    async with ModelProcess(spec, sockets, log) as process:
        await process.await_ready()
