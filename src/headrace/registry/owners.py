"""The project that a registered model belongs to: the one that its tag `headrace.project` names.

One MLflow may serve several projects. If two of them registered versions under one name, each would see the
other's versions among its own, and move the other's aliases.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import sqlite3

from headrace.config.settings import Settings
from headrace.kernel.errors import Refused
from headrace.kernel.properties import PROJECT
from headrace.kernel.secrets import clean_text
from headrace.registry import tables
from headrace.registry.client import MlflowConnection

__all__ = ["ModelOwners"]


class ModelOwners:
    """Whom the registered models of the profile's MLflow belong to.

    Args:
        settings: the project's settings.
        mlflow: the connection.
    """

    def __init__(self, settings: Settings, mlflow: MlflowConnection) -> None:
        self._settings, self._mlflow = settings, mlflow
        self._own: set[str] = set()  # a registered model stays with its project

    def check(self, model: str) -> None:
        """Checks that the model is the project's, or that MLflow does not have it. The embedded store has no
        other project's models.

        Raises:
            Refused: it belongs to another project, or another program registered it.
            Unavailable: MLflow cannot be reached.
        """
        registry, project = self._settings.registry, self._settings.project
        if registry.mlflow == "sqlite" or model in self._own:
            return
        exists, owner = self._find(model)
        if not exists:
            return
        if owner != project:
            problem = "was not registered by Headrace"
            if owner is not None:
                problem = f"belongs to project {clean_text(owner)!r}"
            raise Refused(
                f"model {model!r} of this MLflow {problem}",
                where=f"profile.{self._settings.profile_name}.mlflow = {clean_text(registry.mlflow)}",
                remedy="Give the model another name, or this project an MLflow of its own. If the model is this"
                f" project's, give it to project {project!r}, once for all its versions: "
                + _tag_command(registry.mlflow, model, project),
            )
        self._own.add(model)

    def _find(self, model: str) -> tuple[bool, str | None]:
        """Whether MLflow has the model, and its project; None: it names none."""
        file = self._mlflow.unopened_file
        if file is not None:
            with contextlib.suppress(sqlite3.Error):
                return tables.read_project(file, model)
        client = self._mlflow.client
        from mlflow.exceptions import MlflowException

        with self._mlflow.translate_errors():
            try:
                return True, client.get_registered_model(model).tags.get(PROJECT)
            except MlflowException as error:
                if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                    raise
                return False, None


def _tag_command(address: str, model: str, project: str) -> str:
    """A shell command that gives a registered model to a project. MLflow's own commands have none."""
    values = ", ".join(map(json.dumps, (model, PROJECT, project)))
    code = f"from mlflow import MlflowClient; MlflowClient().set_registered_model_tag({values})"
    return f"MLFLOW_TRACKING_URI={shlex.quote(clean_text(address))} python -c {shlex.quote(code)}"
