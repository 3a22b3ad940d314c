"""scikit-learn: fits an estimator or a Pipeline, and keeps it as `model.skops`.

skops (https://skops.readthedocs.io) writes an estimator as JSON and arrays in a ZIP file. Loading one runs no
code of the file, as loading a pickle would, and makes only objects of scikit-learn's and numpy's own types.
"""

from __future__ import annotations

import functools
import inspect
import logging
import pkgutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from headrace.declare.metrics import Task
from headrace.declare.trainers import Sklearn, check_names
from headrace.features.values.matrix import Encoding
from headrace.kernel.errors import HeadraceError, ProjectError
from headrace.training.trainers.port import Budget, Fitted, ModelMeta, Outputs, PredictFunction, TrainingData
from headrace.training.trainers.sklearn_input import importance_of, make_preprocessing, to_frame

__all__ = ["MODEL", "SklearnTrainer"]

MODEL = "model.skops"
_META = "sklearn.json"
_PLAIN = (bool, int, float, str)
_Inputs = Callable[[npt.NDArray[np.float32]], Any]
_log = logging.getLogger("headrace.training")


class SklearnTrainer:
    """Implements the port `TrainerPort` by scikit-learn's estimators."""

    name = "sklearn"
    declaration = Sklearn
    is_batch_invariant = False
    prepared_for: tuple[str, ...] = ("scikit-learn", "scipy")

    def preload(self) -> None:
        """Imports skops, which imports most of scikit-learn."""
        import skops.io  # noqa: F401

    def prepare(self, data: TrainingData) -> TrainingData:
        """The data as they are."""
        return data

    def fit(
        self,
        data: TrainingData,
        declared: Sklearn,
        parameters: Mapping[str, Any],
        *,
        seed: int,
        budget: Budget,
    ) -> Fitted:
        """Fits a copy of the estimator on the train part.

        A `random_state` that the declaration leaves open is the seed, and every `n_jobs` the budget's threads.
        The importance of a feature is its share of `feature_importances_` or of the absolute coefficients.

        Raises:
            ProjectError: the estimator lacks a parameter, refuses its value, is not for the task, gives no
                probabilities, or has parts that skops does not load.
        """
        from sklearn.base import clone

        estimator = declared.make_estimator()
        given = {**declared.parameters, **parameters}
        check_names(given, type(estimator).__name__, estimator.get_params())
        estimator = clone(estimator).set_params(**given)
        _check_task(estimator, data.task)
        _set_everywhere(estimator, "random_state", seed)
        settings = {**_changed_parameters(estimator), **{name: _plain(value) for name, value in given.items()}}
        _set_everywhere(estimator, "n_jobs", None, replace=True)
        takes_frame = _is_pipeline(estimator)
        model = estimator if takes_frame else _with_preprocessing(estimator, data.encoding)
        _trusted_types(_dump(model))  # before a fit that may take long
        inputs = _inputs(takes_frame, data.encoding)
        target = data.train.target.astype(np.float64 if data.task == "regression" else np.int64)
        with _warnings_logged(estimator), _threads(budget.threads):
            try:
                model.fit(inputs(data.train.matrix), target)
            except (TypeError, ValueError) as error:
                raise ProjectError(f"{_name(estimator)} cannot be fitted: {error}") from error
        meta = _FileMeta(takes_frame, _version())
        files = {MODEL: _dump(model), _META: msgspec.json.encode(meta)}
        predict = _predict_function(model, data.task, inputs)
        importance = importance_of(model, data.features)
        return Fitted(files, settings, {}, predict(data.validation.matrix), importance)

    def load(self, folder: Path, meta: ModelMeta) -> PredictFunction:
        """The estimator's probabilities or values.

        Raises:
            HeadraceError: the files cannot be read, or another version of scikit-learn wrote them.
        """
        from skops.io import loads

        path = folder / MODEL
        try:
            written = msgspec.json.decode((folder / _META).read_bytes(), type=_FileMeta)
            content = path.read_bytes()
        except (OSError, msgspec.DecodeError) as error:
            raise HeadraceError(f"the model cannot be read: {error}", where=str(path)) from error
        if written.version.split(".")[:2] != _version().split(".")[:2]:
            raise HeadraceError(
                f"scikit-learn {written.version} fitted the model, and this is {_version()}, which may"
                " answer otherwise",
                where=str(path),
                remedy=f"pip install scikit-learn=={written.version}, or train the model again.",
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a patch version of scikit-learn that differs
            try:
                model = loads(content, trusted=_trusted_types(content))
            except HeadraceError:
                raise
            except Exception as error:  # skops raises what its parts raise
                raise HeadraceError(f"skops cannot read the model: {error}", where=str(path)) from error
        return _predict_function(model, meta.task, _inputs(written.takes_frame, meta.encoding))


class _FileMeta(msgspec.Struct, frozen=True):
    """What `sklearn.json` holds.

    Attributes:
        takes_frame: whether the input is a frame with the features' names, not the matrix.
        version: the version of scikit-learn that fitted the model.
    """

    takes_frame: bool
    version: str


@functools.cache
def _version() -> str:
    return version("scikit-learn")


def _inputs(takes_frame: bool, encoding: Encoding) -> _Inputs:
    """The function that converts the matrix to what the model takes."""
    return functools.partial(to_frame, encoding=encoding) if takes_frame else _to_float64


def _to_float64(matrix: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    return matrix.astype(np.float64)


def _predict_function(model: Any, task: Task, inputs: _Inputs) -> PredictFunction:
    return functools.partial(_predict, model, task, inputs)  # unlike a closure, it can be pickled


def _predict(model: Any, task: Task, inputs: _Inputs, matrix: npt.NDArray[np.float32]) -> Outputs:
    with _threads(1):
        if task == "regression":
            return np.asarray(model.predict(inputs(matrix)), np.float64).reshape(len(matrix))
        probabilities = np.asarray(model.predict_proba(inputs(matrix)), np.float64)
    return np.ascontiguousarray(probabilities[:, 1]) if task == "binary" else probabilities


def _is_pipeline(estimator: Any) -> bool:
    from sklearn.pipeline import Pipeline

    return isinstance(estimator, Pipeline)


def _with_preprocessing(estimator: Any, encoding: Encoding) -> Any:
    from sklearn.pipeline import Pipeline

    return Pipeline([("preprocessing", make_preprocessing(encoding)), ("estimator", estimator)])


def _check_task(estimator: Any, task: Task) -> None:
    from sklearn.base import is_classifier, is_regressor

    if not (is_regressor(estimator) if task == "regression" else is_classifier(estimator)):
        kind = "regressor" if task == "regression" else "classifier"
        raise ProjectError(f"{_name(estimator)} is not a {kind}, and the task is {task}")
    if task != "regression" and not hasattr(estimator, "predict_proba"):
        raise ProjectError(
            f"{_name(estimator)} does not give the probabilities of the classes",
            remedy="Set its parameter for them, or declare CalibratedClassifierCV(...) around it.",
        )


def _set_everywhere(estimator: Any, parameter: str, value: Any, *, replace: bool = False) -> None:
    """Sets the parameter of the estimator and of all in it, where it is None; with `replace` also elsewhere."""
    names = {
        name: value
        for name, present in estimator.get_params().items()
        if name.rpartition("__")[2] == parameter and (replace or present is None)
    }
    estimator.set_params(**names)


def _changed_parameters(estimator: Any) -> dict[str, Any]:
    """The class of the estimator, and the plain parameters in it that differ from their defaults."""
    changed: dict[str, Any] = {"estimator": _name(estimator)}
    parameters = estimator.get_params()
    for name, value in sorted(parameters.items()):
        owner, _, last = name.rpartition("__")
        signature = inspect.signature(type(parameters[owner] if owner else estimator)).parameters
        is_step = hasattr(value, "get_params") or last not in signature
        if is_step or (isinstance(value, _PLAIN) and value != signature[last].default):
            changed[name] = _plain(value)
    return changed


def _plain(value: Any) -> Any:
    """A parameter's value for the report: as it is, or as text."""
    if value is None or isinstance(value, _PLAIN):
        return value
    return type(value).__name__ if hasattr(value, "get_params") else repr(value)


def _name(estimator: Any) -> str:
    last = estimator.steps[-1][1] if _is_pipeline(estimator) else estimator
    return type(last).__name__


def _dump(model: Any) -> bytes:
    from skops.io import dumps

    return bytes(dumps(model))


def _trusted_types(content: bytes) -> list[str]:
    """The types in the file beside those that skops trusts: all must be classes of scikit-learn's.

    Raises:
        ProjectError: the file has an object of another type.
    """
    from skops.io import get_untrusted_types

    types = get_untrusted_types(data=content)
    for name in types:
        is_class = name.startswith("sklearn.") and isinstance(pkgutil.resolve_name(name), type)
        if not (is_class or name == "numpy.dtype"):
            raise ProjectError(
                f"the model holds an object of the type {name}, which serving does not load",
                remedy="Use scikit-learn's own estimators and numpy's functions. Compute other features in a"
                " table or an on-demand view.",
            )
    return list(types)


@contextmanager
def _warnings_logged(estimator: Any) -> Iterator[None]:
    """Logs each warning of the block once, such as of a fit that did not converge."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for message in dict.fromkeys(str(warning.message).splitlines()[0] for warning in caught):
        _log.warning("%s: %s", _name(estimator), message)


@contextmanager
def _threads(number: int) -> Iterator[None]:
    """Runs the block with this many threads of joblib and OpenMP. With one, a forest adds up its trees in the
    same order each time."""
    from joblib import parallel_config

    with parallel_config("threading", n_jobs=number), _controller().limit(limits=number, user_api="openmp"):
        yield


@functools.cache
def _controller() -> Any:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
