"""The XGBoost trainer: fits as XGBoost does, predicts without its Python package, for each task."""

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import xgboost as stock

from headrace.declare.trainers import XGBoost
from headrace.features.values.matrix import Encoding
from headrace.kernel.errors import HeadraceError, ProjectError
from headrace.training.evaluation import evaluator_for
from headrace.training.trainers import trainer_for
from headrace.training.trainers.folder import Predictor, load_model, save_model
from headrace.training.trainers.port import Budget, Examples, Fitted, ModelMeta, TrainingData
from headrace.training.trainers.xgboost import MODEL, XGBoostTrainer

FEATURES = tuple(f"f{n}" for n in range(5))
TRAINER = XGBoostTrainer()


def make_data(rows: int, *, shuffled: bool = False) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(7)
    x = rng.normal(size=(rows, len(FEATURES))).astype(np.float32)
    y = (rng.random(rows) < 1 / (1 + np.exp(-2 * x[:, 0] - x[:, 1] * x[:, 2]))).astype(np.float32)
    x[rng.random(x.shape) < 0.05] = np.nan
    return x, rng.permutation(y) if shuffled else y


def fit_on(train: Examples, validation: Examples, declared: XGBoost, task="binary", classes=()) -> Fitted:
    data = TrainingData(task, Encoding(FEATURES), classes, train, validation)
    return TRAINER.fit(TRAINER.prepare(data), declared, {}, seed=0, budget=Budget())


def save_fitted(folder: Path, rows: int = 4000) -> tuple[Predictor, np.ndarray, np.ndarray]:
    """A predictor of a fitted model in the folder, the validation part's matrix, and the outputs of the fit."""
    x, y = make_data(rows)
    cut = rows * 3 // 4
    declared = XGBoost(100, 10, max_depth=3, learning_rate=0.2)
    fitted = fit_on(Examples(x[:cut], y[:cut]), Examples(x[cut:], y[cut:]), declared)
    assert max(fitted.importance, key=fitted.importance.get) == "f0"
    assert sum(fitted.importance.values()) == pytest.approx(1)
    save_model(folder, fitted.files, ModelMeta(trainer="xgboost", encoding=Encoding(FEATURES)))
    return load_model(folder), x[cut:], fitted.validation


def test_a_declaration_finds_its_trainer() -> None:
    assert trainer_for(XGBoost()).name == "xgboost"


def test_the_predictor_answers_as_xgboost_does(tmp_path: Path) -> None:
    predictor, x, outputs = save_fitted(tmp_path)
    np.testing.assert_array_equal(predictor.predict(x), outputs)
    booster = stock.Booster(model_file=tmp_path / MODEL)
    np.testing.assert_array_equal(predictor.predict(x), booster.inplace_predict(x).astype(np.float64))
    assert predictor.predict(x).dtype == np.float64
    for row in range(20):
        assert predictor.predict(x[row : row + 1].astype(np.float64))[0] == outputs[row]
    assert predictor.predict(np.asfortranarray(x)[::2])[3] == outputs[6]


def test_threads_share_a_predictor(tmp_path: Path) -> None:
    predictor, x, outputs = save_fitted(tmp_path)
    wrong: list[int] = []

    def predict_every_eighth(start: int) -> None:
        rows = range(start, len(x), 8)
        wrong.extend(row for row in rows if predictor.predict(x[row : row + 1])[0] != outputs[row])

    threads = [threading.Thread(target=predict_every_eighth, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_shuffled_labels_teach_nothing() -> None:
    scores = {}
    for shuffled in (False, True):
        x, y = make_data(12_000, shuffled=shuffled)
        parts = Examples(x[:6000], y[:6000]), Examples(x[6000:9000], y[6000:9000])
        fitted = fit_on(*parts, XGBoost(60, 10, max_depth=3, learning_rate=0.1))
        model = stock.Booster(model_file=bytearray(fitted.files[MODEL]))
        outputs = model.inplace_predict(x[9000:])
        scores[shuffled] = evaluator_for("binary").metric("roc_auc", y[9000:], outputs)
    assert scores[False] > 0.8
    assert scores[True] == pytest.approx(0.5, abs=0.03)  # two standard deviations of 3,000 rows


def test_a_folder_without_a_model_and_a_matrix_of_another_width_are_errors(tmp_path: Path) -> None:
    with pytest.raises(HeadraceError, match="the model cannot be read"):
        load_model(tmp_path)
    predictor, x, _ = save_fitted(tmp_path)
    with pytest.raises(HeadraceError, match="takes 5 features"):
        predictor.predict(x[:, :4])
    (tmp_path / MODEL).write_bytes(b"nonsense")
    with pytest.raises(HeadraceError, match="XGBoost"):
        load_model(tmp_path)
    save_model(tmp_path, {}, ModelMeta(trainer="abacus", encoding=Encoding(FEATURES)))
    with pytest.raises(HeadraceError, match="'abacus' is not a trainer"):
        load_model(tmp_path)


def test_prediction_needs_no_python_package_of_xgboost(tmp_path: Path) -> None:
    save_fitted(tmp_path)
    code = (
        "import sys, numpy as np; from pathlib import Path;"
        "from headrace.training.trainers.folder import load_model;"
        "load_model(Path(sys.argv[1])).predict(np.zeros((1, 5), np.float32));"
        "print([m for m in ('xgboost', 'sklearn', 'scipy', 'pandas', 'polars', 'ray') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=300, check=True
    )
    assert done.stdout.strip() == "[]"


def test_a_parameter_that_xgboost_does_not_know_is_an_error() -> None:
    x, y = make_data(400)
    parts = Examples(x[:300], y[:300]), Examples(x[300:], y[300:])
    with pytest.raises(ProjectError, match="does not use the parameter 'max_dept'"):
        fit_on(*parts, XGBoost(5, 2, max_dept=3, learning_rate=0.2))
    fit_on(*parts, XGBoost(5, 2, booster="dart", rate_drop=0.1, max_depth=3))


def test_the_number_of_bins_is_a_parameter() -> None:
    x, y = make_data(400)
    splits = []
    for bins in (2, 64):
        fitted = fit_on(Examples(x, y), Examples(x, y), XGBoost(2, 2, max_bin=bins))
        booster = stock.Booster(model_file=bytearray(fitted.files[MODEL]))
        splits.append(booster.trees_to_dataframe()["Split"].nunique())
    assert splits[0] <= 2 * len(FEATURES) < splits[1]


def test_a_search_may_fit_on_the_same_prepared_data_with_other_bins() -> None:
    x, y = make_data(400)
    prepared = TRAINER.prepare(TrainingData("binary", Encoding(FEATURES), (), Examples(x, y), Examples(x, y)))

    def fit_with(bins: int) -> Fitted:
        return TRAINER.fit(prepared, XGBoost(2, 2), {"max_bin": bins}, seed=0, budget=Budget())

    first = fit_with(2).files
    assert fit_with(64).files != first
    assert fit_with(2).files == first


def test_a_regression_predicts_values(tmp_path: Path) -> None:
    x, _ = make_data(2000)
    y = np.nan_to_num(3 * x[:, 0]).astype(np.float32)
    parts = Examples(x[:1500], y[:1500]), Examples(x[1500:], y[1500:])
    fitted = fit_on(*parts, XGBoost(100, 10), "regression")
    assert evaluator_for("regression").metric("r2", y[1500:], fitted.validation) > 0.9
    meta = ModelMeta(trainer="xgboost", task="regression", encoding=Encoding(FEATURES))
    save_model(tmp_path, fitted.files, meta)
    np.testing.assert_array_equal(load_model(tmp_path).predict(x[1500:]), fitted.validation)


def test_a_multiclass_model_predicts_a_probability_for_each_class(tmp_path: Path) -> None:
    x, _ = make_data(2000)
    classes = ("high", "low", "middle")
    y = np.digitize(np.nan_to_num(x[:, 0]), [-0.5, 0.5]).astype(np.float32)
    parts = Examples(x[:1500], y[:1500]), Examples(x[1500:], y[1500:])
    fitted = fit_on(*parts, XGBoost(60, 10), "multiclass", classes)
    meta = ModelMeta(trainer="xgboost", task="multiclass", classes=classes, encoding=Encoding(FEATURES))
    save_model(tmp_path, fitted.files, meta)
    predictor = load_model(tmp_path)
    outputs = predictor.predict(x[1500:])
    np.testing.assert_array_equal(outputs, fitted.validation)
    assert outputs.shape == (500, 3)
    assert outputs.sum(axis=1) == pytest.approx(1)
    assert evaluator_for("multiclass").metric("accuracy", y[1500:], outputs) > 0.9
    np.testing.assert_array_equal(predictor.predict(x[1500:1501])[0], outputs[0])


def test_text_is_a_category() -> None:
    """One split tells the odd letters from the even ones: numbers in alphabetical order would need many."""
    letters = tuple("abcdefghij")
    rng = np.random.default_rng(2)
    codes = rng.integers(0, len(letters), 2_000).astype(np.float32)
    examples = Examples(codes[:, None], (codes % 2).astype(np.float32))
    data = TrainingData("binary", Encoding(("kind",), {"kind": letters}), (), examples, examples)
    fitted = TRAINER.fit(TRAINER.prepare(data), XGBoost(1, 1, max_depth=1), {}, seed=0, budget=Budget())
    assert ((fitted.validation > 0.5) == (examples.target > 0)).all()


def test_a_value_that_xgboost_refuses_is_an_error() -> None:
    x, y = make_data(400)
    for parameters in ({"max_depth": -3}, {"tree_method": "exact"}, {"objective": "binary:logit"}):
        with pytest.raises(ProjectError, match=r"XGBoost cannot be fitted: \w") as error:
            fit_on(Examples(x, y), Examples(x, y), XGBoost(2, 2, **parameters))
        assert "\n" not in str(error.value)


def test_the_predictor_answers_for_text_as_xgboost_does(tmp_path: Path) -> None:
    x, y = make_data(2_000)
    x[:, 4] = np.random.default_rng(1).integers(0, 12, len(x))
    x[::9, 4] = np.nan
    encoding = Encoding(FEATURES, {"f4": tuple("abcdefghijkl")})
    data = TrainingData("binary", encoding, (), Examples(x[:1500], y[:1500]), Examples(x[1500:], y[1500:]))
    fitted = TRAINER.fit(TRAINER.prepare(data), XGBoost(20, 10), {}, seed=0, budget=Budget())
    save_model(tmp_path, fitted.files, ModelMeta(trainer="xgboost", encoding=encoding))
    np.testing.assert_array_equal(load_model(tmp_path).predict(x[1500:]), fitted.validation)
