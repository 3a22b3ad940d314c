"""The registry: MLflow's runs, versions and aliases, and the bundles behind the versions.

A registration seals the bundle, logs its files to an MLflow run, makes the registered version, and copies the
bundle into its folder on this machine. If a registration is killed, repeating it continues where it ended: the
bundle's digest finds the run and the version.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headrace.config.settings import Settings
from headrace.kernel import faults
from headrace.kernel.counts import describe_ranges
from headrace.kernel.errors import CallError
from headrace.kernel.foreign import check_version
from headrace.kernel.properties import BUNDLE_DIGEST, PROJECT
from headrace.kernel.time import from_micros
from headrace.registry import tables
from headrace.registry.bundle import is_sealed, seal
from headrace.registry.bundles import ARTIFACT, Bundles
from headrace.registry.client import MlflowConnection, name_is
from headrace.registry.fetch import fetch_apart
from headrace.registry.home import relocate
from headrace.registry.owners import ModelOwners
from headrace.registry.runs import log_bundle
from headrace.registry.signed_files import SignedFiles
from headrace.registry.signing import signing_key
from headrace.registry.version import Version

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["Registry", "open"]

_LARGEST_VERSION = 2**31 - 1  # MLflow's column is an INTEGER, of four bytes in PostgreSQL


def open(settings: Settings) -> Registry:  # noqa: A001
    """The registry of the profile. MLflow is loaded and reached when it is first needed.

    Raises:
        Unavailable: the embedded store was moved or copied, and is locked; or MLflow is another version.
    """
    check_version("mlflow")
    if settings.registry.mlflow == "sqlite":
        relocate(settings.place("mlflow", "mlflow.db"), settings.project, settings.place("mlflow", "artifacts"))
    return Registry(settings)


class Registry:
    """Versions, aliases and bundles of the project's models."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._mlflow = MlflowConnection(settings)
        self._bundles = Bundles(settings, self._mlflow)
        self._owners = ModelOwners(settings, self._mlflow)

    @property
    def signed_files(self) -> SignedFiles:
        """What is kept of bundles in another form, on this machine and for it alone."""
        return SignedFiles(self._settings.place("prepared"), signing_key(self._settings))

    @property
    def client(self) -> MlflowClient:
        """The MLflow client of the profile, for what this class has no method for.

        Raises:
            Unavailable: the store or the server cannot be reached.
        """
        return self._mlflow.client

    @property
    def experiment(self) -> str:
        """The id of the project's MLflow experiment, which is made if it is missing."""
        return self._mlflow.experiment

    def check_owner(self, model: str) -> None:
        """Checks that the registered model is this project's, or does not exist yet.

        Raises:
            Refused: another project, or another program, registered it.
            Unavailable: MLflow cannot be reached.
        """
        self._owners.check(model)

    def register(
        self,
        model: str,
        bundle: Path,
        *,
        metrics: Mapping[str, float],
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        parent_run: str | None = None,
    ) -> int:
        """Registers the bundle as a version of the model and returns its number.

        Seals the bundle. May be repeated: a bundle that is already registered keeps its version.

        Args:
            model: the model's name; MLflow's registered model is made if it is missing.
            bundle: the bundle's folder; the registration only adds the manifest.
            metrics, params: those of the training; they become those of the version's MLflow run.
            tags: the tags of the run and of the version.
            parent_run: the MLflow run to nest the version's run in; by default the MLflow run of the run that
                the tag `headrace.run` names.

        Raises:
            Unavailable: MLflow cannot be reached.
            Refused: the model is not the project's, or the bundle holds something that is not a plain file.
        """
        self.check_owner(model)
        digest = seal(bundle, signing_key(self._settings))
        with self._mlflow.lock(model), self._mlflow.translate_errors():
            version = self._find_registered(model, digest)
            if version is None:
                tags = {**tags, BUNDLE_DIGEST: digest}
                run_id = log_bundle(self._mlflow, model, bundle, metrics, params, tags, parent_run)
                faults.reach("registry.before_version")
                version = self._create_version(model, run_id, tags)
                faults.reach("registry.after_version")
            self._bundles.keep(bundle, model, version)
        return version

    def version(self, model: str, ref: int | str) -> Version:
        """The version by its number or alias (`3`, `"3"`, `"champion"`).

        Raises:
            CallError: the version does not exist; the error lists those that do.
            Refused: the model is not the project's.
            Unavailable: MLflow cannot be reached.
        """
        self.check_owner(model)
        is_number = isinstance(ref, int) or ref.isdecimal()
        if is_number and int(ref) > _LARGEST_VERSION:
            raise self._no_version(model, ref)
        file = self._mlflow.unopened_file
        if file is not None:
            with contextlib.suppress(sqlite3.Error):
                version = tables.read_version(file, model, ref)
                if version is not None:
                    return version
        from mlflow.exceptions import MlflowException

        with self._mlflow.translate_errors():
            try:
                if is_number:
                    number = int(ref)
                else:
                    number = int(self.client.get_model_version_by_alias(model, str(ref)).version)
                return self._to_version(self.client.get_model_version(model, str(number)))
            except MlflowException as error:
                if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                    raise
                raise self._no_version(model, ref) from error

    def versions(self, model: str) -> list[Version]:
        """All versions of the model, the newest first. Raises as `version`, but for a model without any."""
        self.check_owner(model)
        with self._mlflow.translate_errors():
            return [
                # The results of a search lack the aliases.
                self._to_version(self.client.get_model_version(model, entry.version))
                for entry in sorted(self._search_versions(model), key=lambda entry: -int(entry.version))
            ]

    def alias(self, model: str, alias: str) -> int | None:
        """The version that the alias points at, or None.

        Raises:
            Refused: the model is not the project's.
            Unavailable: MLflow cannot be reached.
        """
        self.check_owner(model)
        file = self._mlflow.unopened_file
        if file is not None:
            with contextlib.suppress(sqlite3.Error):
                return tables.read_alias(file, model, alias)
        try:
            return self.version(model, alias).version
        except CallError:
            return None

    def set_alias(self, model: str, alias: str, version: int) -> None:
        """Points the alias at the version.

        Raises:
            CallError: the version does not exist.
            Refused: the model is not the project's.
            Unavailable: MLflow cannot be reached.
        """
        self.check_owner(model)
        file = self._mlflow.unopened_file
        if file is not None:
            with contextlib.suppress(sqlite3.Error):
                if tables.write_alias(file, model, alias, version):
                    return
        self.version(model, version)
        with self._mlflow.translate_errors():
            self.client.set_registered_model_alias(model, alias, str(version))

    def delete_alias(self, model: str, alias: str) -> None:
        """Deletes an alias of the model, if there is one. Raises Refused if the model is not the project's."""
        self.check_owner(model)
        file = self._mlflow.unopened_file
        if file is not None:
            with contextlib.suppress(sqlite3.Error):
                tables.delete_alias(file, model, alias)
                return
        if self.alias(model, alias) is not None:
            with self._mlflow.translate_errors():
                self.client.delete_registered_model_alias(model, alias)

    def artifact_uri(self, model: str, version: int) -> str:
        """The address of the version's bundle in MLflow's store.

        Raises:
            CallError: the version does not exist.
            Unavailable: MLflow cannot be reached.
        """
        run_id = self.version(model, version).run_id
        with self._mlflow.translate_errors():
            return f"{self.client.get_run(run_id).info.artifact_uri}/{ARTIFACT}"

    def bundle_folder(self, model: str, version: int) -> Path:
        """The folder of the version's bundle on this machine, whether or not it is there yet."""
        return self._bundles.folder(model, version)

    def bundle(self, model: str, version: int, *, apart: bool = False) -> Path:
        """The folder of the version's verified bundle, which is fetched from MLflow if this machine lacks it.

        Args:
            model, version: the version.
            apart: fetches it in another process, so that this one does not load MLflow.

        Raises:
            CallError: the version does not exist.
            Refused: a file differs from the manifest, or the manifest is not signed with this project's key and
                the profile does not trust the version.
            Unavailable: MLflow cannot be reached.
        """
        folder = self._bundles.folder(model, version)
        if not is_sealed(folder):
            with self._mlflow.lock(model):
                if not is_sealed(folder) and apart:
                    fetch_apart(self._settings, model, version)
                elif not is_sealed(folder):
                    self.fetch_bundle(model, version)
        self._bundles.verify(folder, model, version)
        return folder

    def fetch_bundle(self, model: str, version: int) -> None:
        """Fetches the version's bundle into its folder. The caller holds the model's lock; see `bundle`."""
        self._bundles.fetch(model, version, self.version(model, version).run_id)

    def _find_registered(self, model: str, digest: str) -> int | None:
        entries = [entry for entry in self._search_versions(model) if entry.tags.get(BUNDLE_DIGEST) == digest]
        return min((int(entry.version) for entry in entries), default=None)

    def _search_versions(self, model: str) -> list[Any]:
        entries: list[Any] = []
        token = None
        while True:
            page = self.client.search_model_versions(name_is(model), page_token=token)
            entries += page
            token = page.token
            if not token:
                return entries

    def _create_version(self, model: str, run_id: str, tags: Mapping[str, str]) -> int:
        from mlflow.exceptions import MlflowException

        try:
            self.client.create_registered_model(model, tags={PROJECT: self._settings.project})
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            self.check_owner(model)  # another project may have registered it just now
        files = f"{self.client.get_run(run_id).info.artifact_uri}/{ARTIFACT}"
        return int(self.client.create_model_version(model, files, run_id, tags=dict(tags)).version)

    def _no_version(self, model: str, ref: int | str) -> CallError:
        """The error for a version that does not exist; it lists those that do."""
        numbers, aliases = self._list_versions(model)
        remedy = "It has none yet. Train one: headrace build"
        if numbers:
            named = f"; its aliases: {', '.join(sorted(aliases))}" if aliases else ""
            remedy = f"Its versions: {describe_ranges(numbers)}{named}"
        return CallError(f"model {model!r} has no version {ref!r}", remedy=remedy)

    def _list_versions(self, model: str) -> tuple[list[int], list[str]]:
        """The numbers of the model's versions, and its aliases."""
        file = self._mlflow.unopened_file
        if file is not None:
            with contextlib.suppress(sqlite3.Error):
                return tables.list_versions(file, model)
        with self._mlflow.translate_errors():
            numbers = [int(entry.version) for entry in self._search_versions(model)]
            aliases = self.client.get_registered_model(model).aliases if numbers else {}
        return numbers, list(aliases)

    def _to_version(self, entry: Any) -> Version:
        data = self.client.get_run(entry.run_id).data
        return Version(
            model=entry.name,
            version=int(entry.version),
            run_id=entry.run_id,
            tags=dict(entry.tags),
            metrics=dict(data.metrics),
            params=dict(data.params),
            aliases=tuple(sorted(entry.aliases)),
            created=from_micros(entry.creation_timestamp * 1000),
        )
