import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import xgboost as stock

from headrace.features.values.matrix import Encoding
from headrace.kernel.errors import HeadraceError, ProjectError
from headrace.training.evaluation import metric
from headrace.training.trainers.xgboost import Meta, Predictor, fit, load, save

FEATURES = tuple(f"f{n}" for n in range(5))


def synthetic(rows: int, *, shuffled: bool = False) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(7)
    x = rng.normal(size=(rows, len(FEATURES))).astype(np.float32)
    y = (rng.random(rows) < 1 / (1 + np.exp(-2 * x[:, 0] - x[:, 1] * x[:, 2]))).astype(np.float32)
    x[rng.random(x.shape) < 0.05] = np.nan
    return x, rng.permutation(y) if shuffled else y


def fitted(folder: Path, rows: int = 4000) -> tuple[Predictor, np.ndarray, np.ndarray]:
    x, y = synthetic(rows)
    cut = rows * 3 // 4
    booster, rounds, answers, importance = fit(
        (x[:cut], y[:cut]), (x[cut:], y[cut:]), {"max_depth": 3, "learning_rate": 0.2},
        rounds=100, early_stopping=10, features=FEATURES,
    )  # fmt: skip
    assert max(importance, key=importance.get) == "f0"
    assert sum(importance.values()) == pytest.approx(1)
    save(folder, booster, Meta(encoding=Encoding(FEATURES), parameters={}, rounds=rounds, base_rate=0.5))
    return load(folder), x[cut:], answers


def test_the_predictor_answers_as_xgboost_does(tmp_path: Path) -> None:
    predictor, x, answers = fitted(tmp_path)
    np.testing.assert_array_equal(predictor.predict(x), answers)
    booster = stock.Booster(model_file=tmp_path / "model.ubj")
    np.testing.assert_array_equal(predictor.predict(x), booster.inplace_predict(x).astype(np.float64))
    assert predictor.predict(x).dtype == np.float64
    for row in range(20):
        assert predictor.predict(x[row : row + 1].astype(np.float64))[0] == answers[row]
    assert predictor.predict(np.asfortranarray(x)[::2])[3] == answers[6]


def test_many_threads_may_ask_one_predictor(tmp_path: Path) -> None:
    predictor, x, answers = fitted(tmp_path)
    wrong: list[int] = []

    def ask(start: int) -> None:
        rows = range(start, len(x), 8)
        wrong.extend(row for row in rows if predictor.predict(x[row : row + 1])[0] != answers[row])

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_shuffled_labels_teach_nothing() -> None:
    scores = {}
    for shuffled in (False, True):
        x, y = synthetic(12_000, shuffled=shuffled)
        booster, *_ = fit(
            (x[:6000], y[:6000]), (x[6000:9000], y[6000:9000]), {"max_depth": 3, "learning_rate": 0.1},
            rounds=60, early_stopping=10,
        )  # fmt: skip
        model = stock.Booster(model_file=bytearray(booster))
        scores[shuffled] = metric("roc_auc", y[9000:], model.inplace_predict(x[9000:]))
    assert scores[False] > 0.8
    assert scores[True] == pytest.approx(0.5, abs=0.03)  # two standard deviations of 3,000 rows


def test_what_is_no_model_and_what_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(HeadraceError, match="no model"):
        load(tmp_path)
    predictor, x, _ = fitted(tmp_path)
    with pytest.raises(HeadraceError, match="takes 5 features"):
        predictor.predict(x[:, :4])
    (tmp_path / "model.ubj").write_bytes(b"nonsense")
    with pytest.raises(HeadraceError, match="XGBoost"):
        load(tmp_path)


def test_prediction_needs_no_python_package_of_xgboost(tmp_path: Path) -> None:
    fitted(tmp_path)
    code = (
        "import sys, numpy as np; from pathlib import Path;"
        "from headrace.training.trainers.xgboost import load;"
        "load(Path(sys.argv[1])).predict(np.zeros((1, 5), np.float32));"
        "print([m for m in ('xgboost', 'sklearn', 'scipy', 'pandas', 'polars', 'ray') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"


def test_a_parameter_that_xgboost_does_not_know_is_an_error() -> None:
    x, y = synthetic(400)
    parts = (x[:300], y[:300]), (x[300:], y[300:])
    with pytest.raises(ProjectError, match="does not use the parameter 'max_dept'"):
        fit(*parts, {"max_dept": 3, "learning_rate": 0.2}, rounds=5, early_stopping=2)
    fit(*parts, {"booster": "dart", "rate_drop": 0.1, "max_depth": 3}, rounds=5, early_stopping=2)


def test_the_number_of_bins_is_a_parameter() -> None:
    x, y = synthetic(400)
    splits = []
    for bins in (2, 64):
        booster = fit((x, y), (x, y), {"max_bin": bins}, rounds=2, early_stopping=2)[0]
        splits.append(stock.Booster(model_file=bytearray(booster)).trees_to_dataframe()["Split"].nunique())
    assert splits[0] <= 2 * len(FEATURES) < splits[1]
