"""The connection to MLflow: makes its client when it is first needed, and translates its errors."""

from __future__ import annotations

import contextlib
import errno
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from headrace.config.settings import Settings
from headrace.kernel.addresses import path_of_sqlalchemy, sqlalchemy_url
from headrace.kernel.errors import HeadraceError, Unavailable
from headrace.kernel.faults import reach
from headrace.kernel.files import create_draft, remove_dead_drafts, sync_folder
from headrace.kernel.foreign import check_version
from headrace.kernel.lock import hold_lock
from headrace.kernel.private import make_private
from headrace.kernel.secrets import clean_text
from headrace.registry.internals import ARTIFACT_ROOT

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["MlflowConnection", "name_is"]

_PACKAGES = ("mlflow", "sqlalchemy", "requests", "urllib3", "httpx")  # whose errors count as MLflow's
_FILE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
_FULL = ("database or disk is full", "No space left on device")  # in MLflow's own errors
_ANSWER_SECONDS = 5.0  # how long an MLflow server or its database may take to answer
_WITH_TIMEOUT = frozenset({"psycopg", "psycopg2", "pymysql", "mysqldb"})  # drivers that know connect_timeout


class MlflowConnection:
    """The connection to a profile's MLflow, which is imported (4 s) and reached when `client` is first read.

    Args:
        settings: the project's settings.
        place: where the address is written, if it is not that of the profile.
    """

    def __init__(self, settings: Settings, place: str | None = None) -> None:
        self._settings, self._place = settings, place
        self._client: MlflowClient | None = None

    @property
    def client(self) -> MlflowClient:
        """MLflow's own client.

        Raises:
            Unavailable: the store or the server cannot be reached.
        """
        if self._client is None:
            file = path_of_sqlalchemy(self._settings.registry.mlflow_url)
            is_new = file is not None and not file.exists()
            # Two processes must not make the same new database.
            with self.lock("setup") if is_new else contextlib.nullcontext():
                self._client = self._make_client()
        return self._client

    @property
    def experiment(self) -> str:
        """The id of the project's MLflow experiment, which is made if it is missing."""
        experiment = self.client.get_experiment_by_name(self._settings.project)
        if experiment is not None:
            return str(experiment.experiment_id)
        artifacts = None
        if path_of_sqlalchemy(self._settings.registry.mlflow_url) is not None:
            artifacts = self._settings.place("mlflow", "artifacts").as_uri()
        return str(self.client.create_experiment(self._settings.project, artifact_location=artifacts))

    @property
    def unopened_file(self) -> Path | None:
        """The SQLite file of the store if `client` was not read yet, else None.

        Reading its tables directly saves the 4 s of importing MLflow; `status` and `why` read little else.
        """
        return path_of_sqlalchemy(self._settings.registry.mlflow_url) if self._client is None else None

    @contextlib.contextmanager
    def lock(self, subject: str) -> Iterator[None]:
        """Holds the lock on the subject, a model or the store itself: one process at a time may change it."""
        with hold_lock(make_private(self._settings.place("mlflow")) / f"{subject}.lock"):
            yield

    @contextlib.contextmanager
    def translate_errors(self) -> Iterator[None]:
        """Raises Unavailable for an error of MLflow or of a library by which it reaches its store."""
        try:
            yield
        except HeadraceError:
            raise
        except Exception as error:
            is_foreign = type(error).__module__.split(".")[0] in _PACKAGES
            if not is_foreign and not isinstance(error, OSError):
                raise
            message = clean_text(str(error).splitlines()[0]) if str(error) else type(error).__name__
            address = clean_text(self._settings.registry.mlflow)
            if isinstance(error, OSError) and error.errno in _FILE_ERRORS:
                raise Unavailable(
                    f"MLflow cannot read or write its files: {error.strerror}",
                    where=str(error.filename2 or error.filename or self._settings.place("mlflow")),
                    remedy="Check that the disk has room (also TMPDIR's), and that this user may write there.",
                ) from error
            if any(text in message for text in _FULL):
                database = path_of_sqlalchemy(self._settings.registry.mlflow_url)
                raise Unavailable(
                    "MLflow cannot write: the disk is full",
                    where=address if database is None else str(database),
                    remedy="Make room on the disk (also TMPDIR's), then run it again: it continues.",
                ) from error
            place = self._place or f"profile.{self._settings.profile_name}.mlflow"
            remedy = "Find out what is wrong: headrace doctor" if self._place is None else None
            raise Unavailable(
                f"MLflow failed: {message}", where=f"{place} = {address}", remedy=remedy
            ) from error

    def _make_client(self) -> MlflowClient:
        # Set before MLflow is imported: no telemetry, and no ./mlruns folder.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        # It writes the address of each run to standard output, which is a command's result (--json).
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        # If a server stops answering, MLflow tries for some 15 s, not for six minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "4")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "1")
        os.environ[ARTIFACT_ROOT] = self._settings.place("mlflow", "artifacts").as_uri()
        from mlflow import MlflowClient

        # MLflow itself uses this strategy, so its users cannot act on the warning.
        warnings.filterwarnings("ignore", "The ``noload`` loader strategy", DeprecationWarning)
        with self.translate_errors():
            url = self._settings.registry.mlflow_url
            _await_answer(url)
            file = path_of_sqlalchemy(url)
            if file is not None and not file.exists():
                _create_database(file)
            client = MlflowClient(url, url)
            client.search_experiments(max_results=1)
        return client


def name_is(model: str) -> str:
    """MLflow's filter for the versions of a model. Its names may have one kind of quotes."""
    quote = '"' if "'" in model else "'"
    return f"name = {quote}{model}{quote}"


def _create_database(file: Path) -> None:
    """Lets MLflow make its tables in a draft, which then takes the file's name.

    MLflow makes them in many steps and cannot continue: in the file itself, a kill or a full disk would leave a
    database that it never opens again.
    """
    from mlflow.store.db.utils import _initialize_tables, create_sqlalchemy_engine

    check_version("mlflow")
    remove_dead_drafts(file.parent)
    draft, lock = create_draft(file)
    engine = create_sqlalchemy_engine(sqlalchemy_url(draft))
    try:
        try:
            _initialize_tables(engine)
        finally:
            engine.dispose()  # an open file takes room on the disk, also when it is removed
        reach("registry.before_database")
        with contextlib.suppress(FileExistsError):  # another process was faster
            os.link(draft, file)
    finally:
        for path in (draft, draft.with_name(f"{draft.name}-journal")):
            path.unlink(missing_ok=True)
        os.close(lock)
    sync_folder(file.parent)


def _await_answer(url: str) -> None:
    """Raises an error at once if the server does not answer: MLflow itself would try for 100 s (a database) to
    380 s (its own server)."""
    scheme = url.partition(":")[0]
    if scheme in ("http", "https"):
        import httpx

        # Any response counts: a proxy may not know /health.
        httpx.get(f"{url.rstrip('/')}/health", timeout=_ANSWER_SECONDS)
    elif path_of_sqlalchemy(url) is None and scheme != "file":
        import sqlalchemy

        driver = sqlalchemy.make_url(url).get_driver_name()
        options = {"connect_timeout": int(_ANSWER_SECONDS)} if driver in _WITH_TIMEOUT else {}
        sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool, connect_args=options).connect().close()
