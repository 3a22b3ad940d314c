"""Every trainer keeps the promises of the port: one suite on all of them."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.ensemble import (
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from headrace.declare.metrics import Task
from headrace.declare.trainers import MLP, Sklearn, Torch, Trainer, XGBoost
from headrace.features.values.matrix import Encoding
from headrace.kernel.errors import ProjectError
from headrace.training.evaluation import evaluator_for
from headrace.training.trainers import TRAINERS, trainer_for
from headrace.training.trainers.folder import Predictor, load_model, save_model
from headrace.training.trainers.port import Budget, Examples, Fitted, ModelMeta, TrainingData

FEATURES = ("facts__size", "facts__noise", "facts__kind")
KINDS = ("large", "medium", "small")
ENCODING = Encoding(FEATURES, {"facts__kind": KINDS})


def make_pipeline_of(estimator: object) -> Pipeline:
    """A Pipeline as a user writes one, by the names and the dtypes of a frame's columns."""
    text = make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder(handle_unknown="ignore"))
    columns = ColumnTransformer(
        [
            (
                "number",
                make_pipeline(SimpleImputer(), StandardScaler()),
                make_column_selector("facts__(size|noise)"),
            ),
            ("text", text, ["facts__kind"]),
        ]
    )
    return Pipeline([("columns", columns), ("model", estimator)])


TORCH = Torch(MLP((16, 8), dropout=0.1), epochs=20, batch_size=32, learning_rate=0.01)
CLASSIFIERS: dict[str, Trainer] = {
    "xgboost": XGBoost(40, 10, max_depth=3),
    "logistic": Sklearn(LogisticRegression()),
    "forest": Sklearn(RandomForestClassifier, n_estimators=40),
    "neighbours": Sklearn(KNeighborsClassifier()),
    "boosting": Sklearn(GradientBoostingClassifier(n_estimators=20)),
    "histograms": Sklearn(HistGradientBoostingClassifier(max_iter=20)),
    "pipeline": Sklearn(make_pipeline_of(LogisticRegression())),
    "torch": TORCH,
    "factory": Sklearn(lambda: make_pipeline_of(RandomForestClassifier()), model__n_estimators=20),
}
REGRESSORS: dict[str, Trainer] = {
    "xgboost": XGBoost(40, 10, max_depth=3),
    "ridge": Sklearn(Ridge()),
    "forest": Sklearn(RandomForestRegressor(n_estimators=20, n_jobs=2)),
    "histograms": Sklearn(HistGradientBoostingRegressor(max_iter=20)),
    "pipeline": Sklearn(make_pipeline_of(Ridge())),
    "torch": TORCH,
}
CASES = [
    *(pytest.param("binary", trainer, id=f"binary-{name}") for name, trainer in CLASSIFIERS.items()),
    *(pytest.param("multiclass", trainer, id=f"multiclass-{name}") for name, trainer in CLASSIFIERS.items()),
    *(pytest.param("regression", trainer, id=f"regression-{name}") for name, trainer in REGRESSORS.items()),
]


def make_data(task: Task, rows: int = 600, seed: int = 3) -> TrainingData:
    """Rows whose target follows from the number `size` and the text `kind`, with missing values in both."""
    rng = np.random.default_rng(seed)
    size, noise, kind = rng.normal(size=rows), rng.normal(size=rows), rng.integers(0, len(KINDS), rows)
    signal = 2 * size + np.array([2.0, 0.0, -2.0])[kind] + 0.3 * rng.normal(size=rows)
    matrix = np.column_stack([size, noise, kind]).astype(np.float32)
    matrix[rng.random(matrix.shape) < 0.05] = np.nan
    target = {
        "binary": signal > 0,
        "multiclass": np.digitize(signal, [-1.5, 1.5]),
        "regression": signal,
    }[task].astype(np.float32)
    classes = ("high", "low", "middle") if task == "multiclass" else ()
    cut = rows * 2 // 3
    train, validation = Examples(matrix[:cut], target[:cut]), Examples(matrix[cut:], target[cut:])
    return TrainingData(task, ENCODING, classes, train, validation)


def fit(declared: Trainer, data: TrainingData, seed: int = 1, threads: int = 1, **parameters: object) -> Fitted:
    if isinstance(declared, Torch):
        pytest.importorskip("torch", reason="the extra torch is not installed: make torch")
    trainer = trainer_for(declared)
    return trainer.fit(trainer.prepare(data), declared, parameters, seed=seed, budget=Budget(threads))


def save_and_load(folder: Path, declared: Trainer, data: TrainingData, fitted: Fitted) -> Predictor:
    meta = ModelMeta(
        trainer=trainer_for(declared).name,
        task=data.task,
        classes=data.classes,
        encoding=data.encoding,
        parameters=dict(fitted.parameters),
    )
    save_model(folder, fitted.files, meta)
    return load_model(folder)


def test_every_trainer_is_in_the_suite() -> None:
    tested = {trainer_for(declared).name for declared in (*CLASSIFIERS.values(), *REGRESSORS.values())}
    assert tested == {trainer.name for trainer in TRAINERS}


@pytest.mark.parametrize(("task", "declared"), CASES)
def test_a_saved_model_gives_the_outputs_of_the_fit(task: Task, declared: Trainer, tmp_path: Path) -> None:
    data = make_data(task)
    fitted = fit(declared, data)
    predictor = save_and_load(tmp_path, declared, data, fitted)
    outputs = predictor.predict(data.validation.matrix)
    np.testing.assert_array_equal(outputs, fitted.validation)
    assert outputs.dtype == np.float64
    assert outputs.shape == ((200, 3) if task == "multiclass" else (200,))
    for row in range(0, 200, 40):  # a request of one row: libraries of linear algebra may round otherwise
        alone = predictor.predict(data.validation.matrix[row : row + 1])
        np.testing.assert_allclose(alone[0], outputs[row], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("task", "declared"), CASES)
def test_a_model_learns_from_numbers_and_text(task: Task, declared: Trainer) -> None:
    data = make_data(task)
    fitted = fit(declared, data)
    evaluator = evaluator_for(task)
    metric, least = {
        "binary": ("roc_auc", 0.93),
        "multiclass": ("accuracy", 0.75),
        "regression": ("r2", 0.75),
    }[task]
    assert evaluator.metric(metric, data.validation.target, fitted.validation) > least
    if fitted.importance:
        assert list(fitted.importance)[-1] == "facts__noise"
        assert sum(fitted.importance.values()) == pytest.approx(1)


@pytest.mark.parametrize(("task", "declared"), CASES)
def test_the_same_data_and_seed_give_the_same_outputs(task: Task, declared: Trainer) -> None:
    data = make_data(task)
    # PyTorch adds up in another order with another number of threads; the others do not.
    numbers = (1, 1) if isinstance(declared, Torch) else (1, 1, 2)
    outputs = {fit(declared, data, threads=threads).validation.tobytes() for threads in numbers}
    assert len(outputs) == 1


@pytest.mark.parametrize(("task", "declared"), CASES)
def test_missing_and_unseen_values_are_answered(task: Task, declared: Trainer, tmp_path: Path) -> None:
    data = make_data(task)
    predictor = save_and_load(tmp_path, declared, data, fit(declared, data))
    outputs = predictor.predict(np.full((1, len(FEATURES)), np.nan, np.float32))
    assert np.isfinite(outputs).all()


@pytest.mark.parametrize("declared", [CLASSIFIERS["xgboost"], CLASSIFIERS["logistic"], CLASSIFIERS["factory"]])
def test_a_parameter_that_does_not_exist_is_refused_by_its_name(declared: Trainer) -> None:
    with pytest.raises(ProjectError, match="parameter 'max_dept'"):
        fit(declared, make_data("binary"), max_dept=3)


@pytest.mark.parametrize(
    ("declared", "parameters"),
    [
        (CLASSIFIERS["xgboost"], {"max_depth": 1}),
        (CLASSIFIERS["forest"], {"n_estimators": 5}),
        (CLASSIFIERS["pipeline"], {"model__C": 0.001}),
    ],
)
def test_a_search_overrides_declared_parameters(declared: Trainer, parameters: dict[str, object]) -> None:
    data = make_data("binary")
    fitted, searched = fit(declared, data), fit(declared, data, **parameters)
    assert searched.parameters.items() >= parameters.items()
    assert searched.validation.tobytes() != fitted.validation.tobytes()
