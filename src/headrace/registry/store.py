"""The registry: MLflow's runs, versions and aliases, and the bundles behind the versions.

The order in which a version comes to be: the bundle is sealed, its files are logged to an MLflow run,
the registered version is made, the bundle is copied to its place on this machine. Killed anywhere,
the same registration once more goes on where it was: the run and the version are found by the
bundle's digest.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headrace.config.settings import Settings
from headrace.kernel import faults
from headrace.kernel.addresses import path_of_sqlalchemy
from headrace.kernel.errors import CallError, HeadraceError, Unavailable
from headrace.kernel.files import move_into_place
from headrace.kernel.ids import new_id
from headrace.kernel.lock import hold_lock
from headrace.kernel.private import make_private
from headrace.kernel.properties import BUNDLE_DIGEST, RUN
from headrace.kernel.secrets import clean_text
from headrace.kernel.time import from_micros
from headrace.registry import tables
from headrace.registry.bundle import MANIFEST, seal, verify
from headrace.registry.home import settle
from headrace.registry.signing import signing_key
from headrace.registry.tables import Version

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["BUNDLE_DIGEST", "Registry", "Version", "open"]

_ARTIFACT = "bundle"
_FOREIGN = ("mlflow", "sqlalchemy", "requests", "urllib3", "httpx")  # whose errors are MLflow's
_ANSWER = 5.0  # seconds that an MLflow server has to answer at all


def open(settings: Settings) -> Registry:  # noqa: A001
    """The registry of the profile. MLflow is loaded and reached when it is first asked.

    Raises:
        Unavailable: the embedded store was moved or copied, and is locked.
    """
    if settings.registry.mlflow == "sqlite":
        settle(settings.place("mlflow", "mlflow.db"), settings.project, settings.place("mlflow", "artifacts"))
    return Registry(settings)


class Registry:
    """Versions, aliases and bundles of the project's models."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._made: MlflowClient | None = None

    @property
    def client(self) -> MlflowClient:
        """The MLflow client of the profile: its stock API, for what this class has no word for.

        Raises:
            Unavailable: the store or the server cannot be reached.
        """
        if self._made is None:
            with self._lock("setup"):  # two processes must not make the same new database
                self._made = _client(self._settings)
        return self._made

    @property
    def experiment(self) -> str:
        """The id of the project's MLflow experiment, made if it was not there."""
        found = self.client.get_experiment_by_name(self._settings.project)
        if found is not None:
            return str(found.experiment_id)
        place = None
        if path_of_sqlalchemy(self._settings.registry.mlflow_url) is not None:
            place = self._settings.place("mlflow", "artifacts").as_uri()
        return str(self.client.create_experiment(self._settings.project, artifact_location=place))

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

        The bundle is sealed here. A bundle that is registered already gives its version again: a
        registration may be repeated.

        Args:
            model: the model's name; MLflow's registered model is made if need be.
            bundle: the folder of files. It stays as it is, but for its manifest.
            metrics, params: of the training; they become those of the version's MLflow run.
            tags: of the run and of the version.
            parent_run: the MLflow run that the version's run is nested in; by default the one that
                shows the run named by the tag `headrace.run`.

        Raises:
            Unavailable: MLflow cannot be reached.
            Refused: the bundle holds something that is no plain file.
        """
        digest = seal(bundle, signing_key(self._settings))
        with self._lock(model), _reached(self._settings):
            version = self._registered(model, digest)
            if version is None:
                tags = {**tags, BUNDLE_DIGEST: digest}
                run_id = self._logged(model, bundle, digest, metrics, params, tags, parent_run)
                faults.reach("registry.before_version")
                version = self._made_version(model, run_id, tags)
                faults.reach("registry.after_version")
            self._keep(bundle, model, version)
        return version

    def version(self, model: str, ref: int | str) -> Version:
        """The version by its number or alias (`3`, `"3"`, `"champion"`).

        Raises:
            CallError: there is none.
            Unavailable: MLflow cannot be reached.
        """
        file = self._unopened
        if file is not None:
            with contextlib.suppress(sqlite3.Error):
                found = tables.read_version(file, model, ref)
                if found is not None:
                    return found
        from mlflow.exceptions import MlflowException

        with _reached(self._settings):
            try:
                if isinstance(ref, int) or ref.isdecimal():
                    number = int(ref)
                else:
                    number = int(self.client.get_model_version_by_alias(model, ref).version)
                return self._version(self.client.get_model_version(model, str(number)))
            except MlflowException as error:
                if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                    raise
                raise CallError(
                    f"there is no version {ref!r} of model {model!r}",
                    remedy="Make one: headrace build",
                ) from error

    def alias(self, model: str, alias: str) -> int | None:
        """The version that the alias stands for, or None.

        Raises:
            Unavailable: MLflow cannot be reached.
        """
        file = self._unopened
        if file is not None:
            with contextlib.suppress(sqlite3.Error):
                return tables.read_alias(file, model, alias)
        try:
            return self.version(model, alias).version
        except CallError:
            return None

    @property
    def _unopened(self) -> Path | None:
        """The store's own file, where MLflow is not loaded: one look at its tables costs no 4 s of import.

        `status` and `why` ask for little else. Where MLflow's tables have changed, it is asked itself.
        """
        url = self._settings.registry.mlflow_url
        return None if self._made is not None else path_of_sqlalchemy(url)

    def versions(self, model: str) -> list[Version]:
        """All versions of the model, the newest first; none where it has none."""
        with _reached(self._settings):
            return [
                # A search leaves the aliases out; only the single read has them.
                self._version(self.client.get_model_version(model, one.version))
                for one in sorted(self._found(model), key=lambda one: -int(one.version))
            ]

    def set_alias(self, model: str, alias: str, version: int) -> None:
        """Points the alias at the version.

        Raises:
            CallError: there is no such version.
            Unavailable: MLflow cannot be reached.
        """
        file = self._unopened
        if file is not None:
            with contextlib.suppress(sqlite3.Error):
                if tables.write_alias(file, model, alias, version):
                    return
        self.version(model, version)
        with _reached(self._settings):
            self.client.set_registered_model_alias(model, alias, str(version))

    def delete_alias(self, model: str, alias: str) -> None:
        """Takes an alias of the model away, where there is one."""
        file = self._unopened
        if file is not None:
            with contextlib.suppress(sqlite3.Error):
                tables.delete_alias(file, model, alias)
                return
        if self.alias(model, alias) is not None:
            with _reached(self._settings):
                self.client.delete_registered_model_alias(model, alias)

    def place(self, model: str, version: int) -> Path:
        """Where the bundle of the version lies on this machine, if it does."""
        return self._settings.place("bundles", model, str(version))

    def bundle(self, model: str, version: int) -> Path:
        """The bundle's folder on this machine, every file checked; fetched from MLflow if need be.

        Raises:
            CallError: there is no such version.
            Refused: a file differs from the manifest, or the manifest is not signed with our key and
                the profile does not trust the version.
            Unavailable: MLflow cannot be reached.
        """
        place = self.place(model, version)
        if not (place / MANIFEST).is_file():
            with self._lock(model):
                if not (place / MANIFEST).is_file():
                    self._fetch(model, version)
        self._verify(place, model, version)
        return place

    def _verify(self, folder: Path, model: str, version: int) -> None:
        trusted = f"{model}@{version}" in self._settings.registry.trust
        verify(folder, signing_key(self._settings), trusted=trusted)

    def _fetch(self, model: str, version: int) -> None:
        one = self.version(model, version)
        half = _beside(self.place(model, version))
        try:
            with _reached(self._settings):
                fetched = Path(self.client.download_artifacts(one.run_id, _ARTIFACT, str(make_private(half))))
            self._verify(fetched, model, version)
            _move(fetched, self.place(model, version))
        finally:
            shutil.rmtree(half, ignore_errors=True)

    def _keep(self, bundle: Path, model: str, version: int) -> None:
        """Copies the bundle to its place; a reader sees it whole or not at all."""
        place = self.place(model, version)
        if (place / MANIFEST).is_file():
            return
        half = _beside(place)
        try:
            shutil.copytree(bundle, make_private(half) / _ARTIFACT)
            faults.reach("registry.before_place")
            _move(half / _ARTIFACT, place)
        finally:
            shutil.rmtree(half, ignore_errors=True)

    def _registered(self, model: str, digest: str) -> int | None:
        found = [one for one in self._found(model) if one.tags.get(BUNDLE_DIGEST) == digest]
        return min((int(one.version) for one in found), default=None)

    def _found(self, model: str) -> list[Any]:
        found: list[Any] = []
        token = None
        while True:
            page = self.client.search_model_versions(f"name = '{model}'", page_token=token)
            found += page
            token = page.token
            if not token:
                return found

    def _logged(
        self,
        model: str,
        bundle: Path,
        digest: str,
        metrics: Mapping[str, float],
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        parent_run: str | None,
    ) -> str:
        """The MLflow run that holds the bundle's files."""
        from mlflow.entities import Metric, Param
        from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME

        begun = self.client.search_runs(
            [self.experiment], f"tags.`{BUNDLE_DIGEST}` = '{digest}'", max_results=1
        )
        if begun:
            run_id = str(begun[0].info.run_id)
        else:
            outer = parent_run or self._run_of(tags.get(RUN))
            nested = {MLFLOW_PARENT_RUN_ID: outer} if outer else {}
            run = self.client.create_run(
                self.experiment, tags={**tags, **nested, MLFLOW_RUN_NAME: f"version of {model}"}
            )
            run_id = str(run.info.run_id)
        faults.reach("registry.before_files")
        self.client.log_artifacts(run_id, str(bundle), _ARTIFACT)
        moment = int(self.client.get_run(run_id).info.start_time)
        self.client.log_batch(
            run_id,
            metrics=[Metric(name, float(value), moment, 0) for name, value in metrics.items()],
            params=[Param(name, str(value)) for name, value in params.items()],
        )
        self.client.set_terminated(run_id)
        return run_id

    def _run_of(self, run_id: str | None) -> str | None:
        """The MLflow run that shows this run of ours, if there is one."""
        if run_id is None:
            return None
        named = f"tags.`headrace.run` = '{run_id}'"
        found = self.client.search_runs([self.experiment], named, max_results=1)
        return str(found[0].info.run_id) if found else None

    def _made_version(self, model: str, run_id: str, tags: Mapping[str, str]) -> int:
        from mlflow.exceptions import MlflowException

        try:
            self.client.create_registered_model(model)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        place = f"{self.client.get_run(run_id).info.artifact_uri}/{_ARTIFACT}"
        return int(self.client.create_model_version(model, place, run_id, tags=dict(tags)).version)

    def _version(self, one: Any) -> Version:
        data = self.client.get_run(one.run_id).data
        return Version(
            model=one.name,
            version=int(one.version),
            run_id=one.run_id,
            tags=dict(one.tags),
            metrics=dict(data.metrics),
            params=dict(data.params),
            aliases=tuple(sorted(one.aliases)),
            created=from_micros(one.creation_timestamp * 1000),
        )

    @contextlib.contextmanager
    def _lock(self, what: str) -> Iterator[None]:
        path = make_private(self._settings.place("mlflow")) / f"{what}.lock"
        with hold_lock(path):
            yield


def _beside(place: Path) -> Path:
    # What a kill left of an earlier copy goes first: only one process at a time comes here.
    for old in place.parent.glob(f".{place.name}.*"):
        shutil.rmtree(old)
    return place.parent / f".{place.name}.{new_id()}"


def _move(folder: Path, place: Path) -> None:
    if place.exists():
        shutil.rmtree(place)
    move_into_place(folder, place)


def _client(settings: Settings) -> MlflowClient:
    # Before MLflow is imported: nothing is reported, and the store makes no ./mlruns where we stand.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # A server that goes away meanwhile is waited for some 15 s, not six minutes.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "4")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "1")
    os.environ["_MLFLOW_SERVER_ARTIFACT_ROOT"] = settings.place("mlflow", "artifacts").as_uri()
    from mlflow import MlflowClient

    # MLflow's own way to ask SQLAlchemy, which nobody here can change.
    warnings.filterwarnings("ignore", "The ``noload`` loader strategy", DeprecationWarning)
    with _reached(settings):
        _answers(settings.registry.mlflow_url)
        client = MlflowClient(settings.registry.mlflow_url, settings.registry.mlflow_url)
        client.search_experiments(max_results=1)
    return client


def _answers(url: str) -> None:
    """Raises where another server does not answer: MLflow tries for 100 s (a database) to 380 s (its own
    server) before it says so."""
    scheme = url.partition(":")[0]
    if scheme in ("http", "https"):
        import httpx

        # Any answer will do: a proxy in front may know no /health.
        httpx.get(f"{url.rstrip('/')}/health", timeout=_ANSWER)
    elif path_of_sqlalchemy(url) is None and scheme != "file":
        import sqlalchemy

        sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool).connect().close()


@contextlib.contextmanager
def _reached(settings: Settings) -> Iterator[None]:
    """MLflow's own errors, as ours."""
    try:
        yield
    except HeadraceError:
        raise
    except Exception as error:
        foreign = type(error).__module__.split(".")[0] in _FOREIGN
        if not foreign and not isinstance(error, OSError):
            raise
        raise Unavailable(
            f"MLflow failed: {clean_text(str(error).splitlines()[0]) if str(error) else type(error).__name__}",
            where=f"profile.{settings.profile_name}.mlflow = {clean_text(settings.registry.mlflow)}",
            remedy="See what is wrong with it: headrace doctor",
        ) from error
