"""Models that others registered in an MLflow: finds their versions, and downloads their artefacts."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from msgspec import Struct

from headrace.config.settings import Settings
from headrace.kernel.addresses import path_of_sqlalchemy
from headrace.kernel.errors import Unavailable
from headrace.kernel.foreign import check_version
from headrace.kernel.secrets import clean_text
from headrace.registry.client import MlflowConnection, name_is

__all__ = ["OtherModels", "OtherVersion"]


class OtherVersion(Struct, frozen=True):
    """A version of a registered model.

    Attributes:
        model, version: the model's name and the version's number.
        source: MLflow's address of its artefact.
        tags: those of the model, and those of the version, which count more.
        is_ready: whether its registration was completed.
    """

    model: str
    version: int
    source: str
    tags: dict[str, str]
    is_ready: bool


class OtherModels:
    """The registered models of an MLflow, which need not be the project's.

    Args:
        settings: the project's settings.
        address: MLflow's address; None: that of the profile.
        place: where the address is written.

    Raises:
        Unavailable: the address is a database that does not exist. MLflow would make an empty one.
    """

    def __init__(self, settings: Settings, address: str | None = None, *, place: str = "") -> None:
        check_version("mlflow")
        if address is None:
            self._mlflow = MlflowConnection(settings)
            return
        database = path_of_sqlalchemy(address)
        if database is not None and not database.is_file():
            raise Unavailable("there is no such database", where=f"{place} = {clean_text(address)}")
        self._mlflow = MlflowConnection(settings.with_values(mlflow=address), place)

    def names(self, pattern: str) -> list[str]:
        """The names of the models that match the pattern (`*`, `?`, `[...]`), in order.

        Raises:
            Unavailable: MLflow cannot be reached.
        """
        with self._mlflow.translate_errors():
            return sorted(entry.name for entry in self._search() if fnmatchcase(entry.name, pattern))

    def find_version(
        self, model: str, *, alias: str | None = None, number: int | None = None
    ) -> OtherVersion | None:
        """Finds a version by its alias or its number; without both, the newest. None: there is none.

        Raises:
            Unavailable: MLflow cannot be reached.
        """
        from mlflow.exceptions import MlflowException

        client = self._mlflow.client
        with self._mlflow.translate_errors():
            try:
                if alias is not None:
                    entry = client.get_model_version_by_alias(model, alias)
                elif number is not None:
                    entry = client.get_model_version(model, str(number))
                else:
                    entries = client.search_model_versions(name_is(model), order_by=["version_number DESC"])
                    if not entries:
                        return None
                    entry = entries[0]
            except MlflowException as error:
                if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                    return None
                raise
            source = client.get_model_version_download_uri(model, entry.version)
            tags = {**client.get_registered_model(model).tags, **entry.tags}
            is_ready = entry.status in (None, "READY")
        return OtherVersion(model, int(entry.version), source, tags, is_ready)

    def list_versions(self, model: str) -> tuple[list[int], list[str]]:
        """The numbers of the model's versions, and its aliases; none of a model that does not exist.

        Raises:
            Unavailable: MLflow cannot be reached.
        """
        client = self._mlflow.client
        with self._mlflow.translate_errors():
            numbers = [int(entry.version) for entry in client.search_model_versions(name_is(model))]
            aliases = client.get_registered_model(model).aliases if numbers else {}
        return numbers, sorted(aliases)

    def download(self, source: str, folder: Path) -> Path:
        """Downloads an artefact into the folder; returns the folder of its files.

        Raises:
            Unavailable: MLflow or its store of artefacts cannot be reached, or has no such artefact.
        """
        address = self._mlflow.client.tracking_uri
        from mlflow.artifacts import download_artifacts

        try:
            return Path(download_artifacts(source, dst_path=str(folder), tracking_uri=address))
        except Exception as error:  # of any library by which MLflow reaches a store of artefacts
            text = clean_text(" ".join(str(error).split())) or type(error).__name__
            raise Unavailable(f"its artefact cannot be downloaded: {text}", where=clean_text(source)) from error

    def _search(self) -> Iterator[Any]:
        token = None
        while True:
            page = self._mlflow.client.search_registered_models(page_token=token)
            yield from page
            token = page.token
            if not token:
                return
