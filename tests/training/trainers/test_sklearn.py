"""The Sklearn trainer: its preprocessing, what it refuses, and the file that it keeps."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.cluster import KMeans
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.svm import LinearSVC

from headrace.declare.trainers import Sklearn
from headrace.features.values.matrix import Encoding
from headrace.kernel.errors import HeadraceError, ProjectError
from headrace.training.trainers.folder import load_model, save_model
from headrace.training.trainers.port import Budget, Examples, Fitted, ModelMeta, TrainingData
from headrace.training.trainers.sklearn import MODEL, SklearnTrainer
from headrace.training.trainers.sklearn_input import make_preprocessing, to_frame

TRAINER = SklearnTrainer()
ENCODING = Encoding(("age", "plan"), {"plan": ("basic", "flex")})
MATRIX = np.array([[20, 0], [40, 1], [np.nan, np.nan], [60, 1]], np.float32)


class Doubled(TransformerMixin, BaseEstimator):
    """A transformer of a project."""

    def fit(self, rows: object, target: object = None) -> "Doubled":
        return self

    def transform(self, rows: np.ndarray) -> np.ndarray:
        return rows * 2


def double(rows: np.ndarray) -> np.ndarray:
    return rows * 2


def make_data(task: str = "binary") -> TrainingData:
    examples = Examples(np.repeat(MATRIX, 5, axis=0), np.tile([0, 1, 0, 1], 5).astype(np.float32))
    return TrainingData(task, ENCODING, (), examples, examples)  # type: ignore[arg-type]


def fit(declared: Sklearn, task: str = "binary") -> Fitted:
    data = make_data(task)
    return TRAINER.fit(TRAINER.prepare(data), declared, {}, seed=0, budget=Budget())


def test_numbers_are_imputed_and_scaled_and_text_is_one_hot_encoded() -> None:
    prepared = make_preprocessing(ENCODING).fit(MATRIX.astype(np.float64)).transform(MATRIX.astype(np.float64))
    ages = np.array([20, 40, 40, 60])  # the median replaces the missing one
    np.testing.assert_allclose(prepared[:, 0], (ages - ages.mean()) / ages.std(), rtol=1e-6)
    assert prepared[:, 1:].tolist() == [[1, 0], [0, 1], [0, 0], [0, 1]]


def test_a_pipeline_gets_text_as_it_was() -> None:
    frame = to_frame(MATRIX, ENCODING)
    assert list(frame.columns) == ["age", "plan"]
    assert frame["age"].dtype == np.float64
    assert frame["plan"].fillna("missing").tolist() == ["basic", "flex", "missing", "flex"]


@pytest.mark.parametrize(
    ("declared", "task", "message"),
    [
        (Sklearn(LogisticRegression()), "regression", "LogisticRegression is not a regressor"),
        (Sklearn(Ridge()), "binary", "Ridge is not a classifier, and the task is binary"),
        (Sklearn(KMeans()), "binary", "KMeans is not a classifier"),
        (Sklearn(LinearSVC()), "binary", "LinearSVC does not give the probabilities of the classes"),
        (Sklearn(LogisticRegression(C=-1)), "binary", "LogisticRegression cannot be fitted: .*C"),
        (
            Sklearn(lambda: LogisticRegression(), c=1),
            "binary",
            "LogisticRegression does not have the parameter 'c'",
        ),
        (Sklearn(make_pipeline(Doubled(), Ridge())), "regression", "an object of the type .*Doubled"),
        (Sklearn(make_pipeline(FunctionTransformer(double), Ridge())), "regression", "the type .*double"),
    ],
)
def test_what_cannot_be_fitted_or_loaded_is_refused(declared: Sklearn, task: str, message: str) -> None:
    with pytest.raises(ProjectError, match=message):
        fit(declared, task)


def test_the_parameters_of_the_report_are_those_that_differ_from_the_defaults() -> None:
    declared = Sklearn(RandomForestClassifier(min_samples_leaf=2), n_estimators=3)
    assert fit(declared).parameters == {
        "estimator": "RandomForestClassifier",
        "min_samples_leaf": 2,
        "n_estimators": 3,
        "random_state": 0,
    }
    assert declared.estimator.n_estimators == 100, "the declared estimator is not changed"


def write_model(folder: Path) -> ModelMeta:
    meta = ModelMeta(trainer="sklearn", encoding=ENCODING)
    save_model(folder, fit(Sklearn(LogisticRegression())).files, meta)
    return meta


def test_a_model_of_another_minor_version_is_refused(tmp_path: Path) -> None:
    write_model(tmp_path)
    file = tmp_path / "sklearn.json"
    version = json.loads(file.read_text())["version"]
    file.write_text(json.dumps({"takes_frame": False, "version": "1.2.3"}))
    with pytest.raises(HeadraceError, match=f"scikit-learn 1.2.3 fitted the model, and this is {version}"):
        load_model(tmp_path)


def test_a_file_that_is_not_a_model_is_an_error(tmp_path: Path) -> None:
    meta = write_model(tmp_path)
    for content in (b"", b"PK\x03\x04", b"nonsense" * 99, (tmp_path / MODEL).read_bytes()[:-700]):
        (tmp_path / MODEL).write_bytes(content)
        with pytest.raises(HeadraceError):
            load_model(tmp_path)
    (tmp_path / MODEL).unlink()
    with pytest.raises(HeadraceError, match="the model cannot be read"):
        TRAINER.load(tmp_path, meta)


def test_loading_runs_no_code_of_the_file(tmp_path: Path) -> None:
    """A file that names a function of the standard library, as a forged pickle would."""
    from skops.io import dumps

    write_model(tmp_path)
    (tmp_path / MODEL).write_bytes(dumps(FunctionTransformer(subprocess.run)))
    with pytest.raises(HeadraceError, match=r"an object of the type subprocess\.run"):
        load_model(tmp_path)


def test_declaring_a_function_that_makes_the_estimator_does_not_import_scikit_learn() -> None:
    code = (
        "import sys; from headrace import Sklearn;"
        "Sklearn(lambda: None, C=1);"
        "print([m for m in ('sklearn', 'skops', 'scipy', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout.strip() == "[]"
