"""Features that know the target alone."""

import numpy as np
import polars as pl
import pytest

from headrace.kernel.errors import Refused
from headrace.training.leakage import score_features

DRAW = np.random.default_rng(3)
ROWS = 2_000
BOUGHT = (DRAW.random(ROWS) < 0.1).astype(int)
PRICE = DRAW.normal(size=ROWS)


def score(task, target, **features):
    rows = pl.DataFrame({"y": target, **features})
    return {row.feature: row for row in score_features(rows, list(features), "y", task, bound=0.95)}


def test_a_feature_made_from_the_target_leaks_and_noise_does_not():
    known = pl.Series(np.where(DRAW.random(ROWS) < 0.3, np.nan, BOUGHT * 5.0 + DRAW.random(ROWS)))
    scores = score(
        "binary", BOUGHT, noise=PRICE, refund=BOUGHT * 2.5, word=np.where(BOUGHT, "thanks", "bye"), rare=known
    )
    assert [name for name, row in scores.items() if row.leaks] == ["refund", "word", "rare"]
    assert scores["refund"].score == scores["word"].score == 1.0
    assert 0.4 < scores["noise"].score < 0.6
    assert scores["refund"].share == 1.0
    assert scores["rare"].share == pytest.approx(0.7, abs=0.05)


@pytest.mark.parametrize("rate", [0.3, 0.03, 0.004])
def test_a_copy_of_a_rare_target_leaks(rate):
    draw = np.random.default_rng(7)
    rare = draw.random(20_000) < rate
    amount = np.where(rare, draw.lognormal(3, 1, len(rare)), 0.0)
    noise = np.where(draw.random(len(rare)) < rate, amount.max(), draw.integers(0, 2, len(rare)))
    between = np.where(rare, 0.5, draw.integers(0, 2, len(rare)))
    scores = score(
        "binary", rare, copy=rare, number=rare * 7, amount=amount, loss=-amount, between=between, noise=noise
    )
    leaks = ["amount", "between", "copy", "loss", "number"]
    assert sorted(name for name, row in scores.items() if row.leaks) == leaks
    assert scores["copy"].score == scores["number"].score == scores["between"].score == 1.0


def test_a_target_that_is_not_monotone_in_the_feature_is_found():
    assert score("binary", (np.abs(PRICE) > 1.5).astype(int), price=PRICE)["price"].leaks


def test_an_id_of_each_row_does_not_know_the_target():
    ids = [f"id-{row}" for row in range(ROWS)]
    assert score("binary", BOUGHT, id=ids)["id"].score == 0.5


def test_a_regression_is_scored_by_the_variance_that_is_explained():
    scores = score(
        "regression", PRICE, copy=PRICE * 2 + 1, half=PRICE + DRAW.normal(size=ROWS), noise=DRAW.random(ROWS)
    )
    assert scores["copy"].leaks
    assert scores["half"].score == pytest.approx(0.5, abs=0.1)
    assert scores["noise"].score < 0.05
    assert list(scores) == ["copy", "half", "noise"]


def test_a_copy_of_a_target_whose_variance_a_few_rows_have_leaks():
    draw = np.random.default_rng(8)
    spent = np.where(draw.random(ROWS) < 0.01, draw.lognormal(3, 2, ROWS), 0.0)
    spent[:2] = 1e6
    part = pl.Series(np.where((draw.random(ROWS) < 0.3) & (spent < 1e6), np.nan, spent))
    noise, same = draw.random(ROWS), [5] * ROWS
    scores = score("regression", spent, copy=spent, turned=7 - 3 * spent, part=part, noise=noise, same=same)
    assert [name for name, row in scores.items() if row.leaks] == ["copy", "turned", "part"]
    assert scores["copy"].score == pytest.approx(1.0, abs=1e-9)
    assert max(scores["noise"].score, scores["same"].score) < 0.05


def test_a_function_of_a_target_of_very_different_sizes_leaks_and_an_honest_lag_does_not():
    draw = np.random.default_rng(3)
    size = draw.normal(size=500)[draw.integers(0, 500, 20_000)] * 2.5
    week, noisy = (np.exp(size + noise * draw.normal(size=len(size))) for noise in (0.1, 0.3))
    rows = pl.DataFrame({"week": week, "log": np.log(week), "square": week**2, "noisy": noisy})
    honest = rows.with_columns(week=np.exp(size + 0.3 * draw.normal(size=len(size))))
    leaks = {
        s.feature: s.leaks for s in score_features(rows, ["log", "square"], "week", "regression", bound=0.95)
    }
    assert leaks == {"log": True, "square": True}
    (lag,) = score_features(honest, ["noisy"], "week", "regression", bound=0.95)
    assert (lag.leaks, lag.score < 0.9) == (False, True)


def test_classes_are_scored_by_the_errors_that_are_avoided():
    kinds = DRAW.choice(["a", "b", "c"], ROWS, p=[0.9, 0.05, 0.05])
    scores = score(
        "multiclass", kinds, code=pl.Series(kinds).replace({"a": "x", "b": "y", "c": "z"}), noise=PRICE
    )
    assert scores["code"].score == 1.0
    assert scores["noise"].score < 0.1


def test_a_copy_of_rare_classes_leaks():
    kinds = np.random.default_rng(9).choice([0, 1, 2], ROWS, p=[0.98, 0.01, 0.01])
    assert score("multiclass", kinds, code=np.choose(kinds, [5, 9, 7]))["code"].score == 1.0


def test_a_class_that_is_mistaken_more_often_than_by_the_most_frequent_one_scores_below_0():
    kinds = ["a", "a"] * 30 + ["b", "b"] * 20  # every other row is scored
    turned = ["x", "y"] * 30 + ["y", "x"] * 20  # x is a where it is learned, and b where it is scored
    row = score("multiclass", kinds, turned=turned)["turned"]
    assert (row.score, row.leaks) == (1 - 50 / 20, False)  # 50 errors; the most frequent class makes 20


def test_a_feature_without_any_value_scores_as_chance():
    row = score("binary", BOUGHT, empty=pl.Series([None] * ROWS, dtype=pl.Float64))["empty"]
    assert (row.score, row.share, row.leaks) == (0.5, 0.0, False)


def test_few_rows_are_refused():
    with pytest.raises(Refused, match="99 labelled rows are too few"):
        score("binary", BOUGHT[:99], price=PRICE[:99])
