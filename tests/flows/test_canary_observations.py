"""What a canary observes of requests whose instances go to different arms, against the definition."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import polars as pl

from headrace.flows.models.canary import _observations_of

BEGIN = datetime(2026, 3, 1, tzinfo=UTC)


def make_predictions(seed):
    """Predictions of 300 requests of 1 to 6 instances in two steps. An arm answers its instances of a request
    together, with one latency, or fails on all of them."""
    chance, predictions = random.Random(seed), []
    for number in range(300):
        calls = {arm: (chance.choice([1.5, 2.5]), chance.random() < 0.1) for arm in ("champion", "canary")}
        for instance in range(chance.randint(1, 6)):
            user = chance.randrange(60)
            arm = "canary" if user % 4 == 0 else "champion"
            latency, has_failed = calls[arm]
            prediction = {
                "at": BEGIN + timedelta(seconds=number),
                "id": f"{number:04d}-{instance}",
                "release": "first" if number < 150 else "second",
                "unit": str(user),
                "arm": arm,
                "latency_ms": latency,
                "error": "internal" if has_failed else None,
            }
            predictions.append(prediction)
    return predictions


def test_a_request_counts_once_for_each_arm_that_answers_a_part_of_it():
    predictions = make_predictions(3)
    rows = pl.DataFrame(predictions, schema_overrides={"error": pl.String})
    first = rows.unique(["release", "unit"], keep="first", maintain_order=True)
    scores = first.filter(pl.col("error").is_null()).select("release", "arm", score=pl.lit(1.0))
    are_mixed = 0
    for step in ("first", "second"):
        for arm in ("champion", "canary"):
            own = [p for p in predictions if (p["release"], p["arm"]) == (step, arm)]
            failed = {}
            for prediction in own:
                failed.setdefault(prediction["unit"], prediction["error"] is not None)
            calls = {p["at"]: p["latency_ms"] for p in own if p["error"] is None}
            observed = _observations_of(rows, first, scores, step, arm)
            assert list(observed.failed) == list(failed.values())
            assert list(observed.latencies) == list(calls.values())
            assert len(observed.scores) == list(failed.values()).count(False)
            are_mixed += len(own) > len(calls)
    assert are_mixed == 4
