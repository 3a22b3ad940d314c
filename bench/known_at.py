"""What it costs to train by event time: the AUC of two models offline and in serving.

Accounts get complaints, many before a fraud and few otherwise. A complaint reaches the log one to two hours
late. One model learns from complaints by their time, one from those that were known. Both are then judged on
the features that serving has.
"""

from __future__ import annotations

import argparse
import json

import numpy as np
import polars as pl
import xgboost
from sklearn.metrics import roc_auc_score

from headrace.features.aggregates import parse_function
from headrace.features.offline.windows import aggregate
from headrace.features.plan import Aggregation, PlanField, WindowedView

MINUTE = 60_000_000
HOUR, DAY = 60 * MINUTE, 24 * 60 * MINUTE
START = 1_760_000_000_000_000
INSTANT = pl.Datetime("us", "UTC")
ACCOUNTS = 6_000


def make_view() -> WindowedView:
    """The number of complaints in the last hour and in the last day."""
    aggregations = tuple(
        Aggregation(name, "one", parse_function("count"), window, hop, "int64")
        for name, window, hop in (("hour", HOUR, MINUTE), ("day", DAY, HOUR))
    )
    columns = (PlanField("one", "int64"),)
    return WindowedView(
        "complaints", ("account",), "complaints", "complaints", None, "time", columns, aggregations
    )


def generate(seed: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Labels (account, at, fraud) and complaints (account, time, known, one)."""
    draw = np.random.default_rng(seed)
    at = START + draw.integers(2 * DAY, 30 * DAY, ACCOUNTS)
    fraud = draw.random(ACCOUNTS) < 0.3
    early = np.repeat(np.arange(ACCOUNTS), draw.poisson(np.where(fraud, 2.0, 1.0)))  # a day before: a hint
    late = np.repeat(np.arange(ACCOUNTS), draw.poisson(np.where(fraud, 4.0, 0.1)))  # an hour before: tell all
    time = np.concatenate([at[early] - draw.integers(3 * HOUR, 20 * HOUR, len(early)),
                           at[late] - draw.integers(1, HOUR, len(late))])  # fmt: skip
    account = np.concatenate([early, late])
    known = time + draw.integers(HOUR, 2 * HOUR, len(time))
    labels = pl.DataFrame({"account": np.arange(ACCOUNTS), "at": at, "fraud": fraud})
    events = pl.DataFrame(
        {"account": account, "time": time, "known": known, "one": np.ones(len(time), np.int64)}
    )
    return labels.with_columns(pl.col("at").cast(INSTANT)), events.with_columns(
        pl.col("time", "known").cast(INSTANT)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object a line (always the case)")
    parser.parse_args()
    view = make_view()
    (train, train_events), (test, test_events) = generate(1), generate(2)
    served = aggregate(view, test, test_events, at="at", known_at="known").to_numpy()
    for name, known_at in (("by event time", None), ("as known then", "known")):
        features = aggregate(view, train, train_events, at="at", known_at=known_at).to_numpy()
        offline = aggregate(view, test, test_events, at="at", known_at=known_at).to_numpy()
        data = xgboost.DMatrix(features, train["fraud"].to_numpy().astype(float))
        model = xgboost.train({"objective": "binary:logistic", "max_depth": 3, "nthread": 1}, data, 30)
        for place, rows in (("offline", offline), ("in serving", served)):
            auc = roc_auc_score(test["fraud"].to_numpy(), model.predict(xgboost.DMatrix(rows)))
            work = f"a model trained {name}: AUC {place}"
            print(json.dumps({"work": work, "ours": round(float(auc), 3), "unit": "AUC"}), flush=True)


if __name__ == "__main__":
    main()
