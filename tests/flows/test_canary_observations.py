"""What a canary observes of requests, whose instances may go to different arms, against the definition."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl

from headrace.flows.models.canary import _to_observations
from headrace.serving.canary import CanaryPlan, decide

BEGIN = datetime(2026, 3, 1, tzinfo=UTC)


def make_predictions(seed):
    """Predictions of 300 requests of 1 to 6 instances in two steps, or of as many single requests that arrived
    together. An arm answers its instances of a request together, with one latency, or fails on all of them."""
    chance, predictions = random.Random(seed), []
    for number in range(300):
        calls = {arm: (chance.choice([1.5, 2.5]), chance.random() < 0.1) for arm in ("champion", "canary")}
        are_single = number % 3 == 0
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
                "instance": 0 if are_single else instance,
                "shared": are_single,
            }
            predictions.append(prediction)
    return predictions


def find_latencies(predictions):
    """Step → arm → the latencies that are compared, from the definition."""
    calls = {}
    for p in predictions:
        if p["error"] is None and not p["shared"]:
            calls.setdefault((p["release"], p["arm"], p["at"]), []).append(p)
    sizes = [len(parts) for (_, arm, _), parts in calls.items() if arm == "champion"][:500]
    usual = min(sizes, key=lambda size: (-sizes.count(size), size))
    latencies, seen = {}, set()
    for (step, arm, _), parts in calls.items():
        unit = step, parts[0]["unit"]
        if len(parts) == usual and unit not in seen:
            seen.add(unit)
            latencies.setdefault(step, {}).setdefault(arm, []).append(parts[0]["latency_ms"])
    return latencies


def test_what_is_observed_of_an_arm_is_that_of_the_definition():
    predictions = make_predictions(3)
    rows = pl.DataFrame(predictions, schema_overrides={"error": pl.String})
    first = rows.unique(["release", "unit"], keep="first", maintain_order=True)
    scores = first.filter(pl.col("error").is_null()).select("release", "arm", score=pl.lit(1.0))
    latencies = find_latencies(predictions)
    are_mixed = 0
    for step, observations in zip(
        ("first", "second"), _to_observations(rows, scores, {"first": 0.25, "second": 0.5}), strict=True
    ):
        for arm in ("champion", "canary"):
            observed = getattr(observations, arm)
            own = [p for p in predictions if (p["release"], p["arm"]) == (step, arm)]
            failed = {}
            for prediction in own:
                failed.setdefault(prediction["unit"], prediction["error"] is not None)
            assert list(observed.failed) == list(failed.values())
            assert list(observed.latencies) == latencies[step][arm]
            answered = [p for p in own if p["error"] is None]
            single = [p for p in answered if p["shared"]]
            assert observed.requests == len({p["at"] for p in answered if not p["shared"]}) + len(single)
            assert len(observed.scores) == list(failed.values()).count(False)
            are_mixed += len(own) > observed.requests
    assert are_mixed == 4


def decide_about(columns, shares):
    """The decision about predictions in two steps with these shares."""
    count = len(columns["unit"])
    moments = BEGIN + np.arange(count) * timedelta(seconds=1)
    usual = {"at": moments, "id": np.arange(count), "error": [None] * count}
    usual |= {"instance": np.arange(count), "shared": [False] * count}
    rows = pl.DataFrame(usual | columns)
    scores = pl.DataFrame(schema={"release": pl.String, "arm": pl.String, "score": pl.Float64})
    plan = CanaryPlan("c", 1, 2, [*shares.values(), 1.0], len(shares) - 1, 10**9, 0, "right", "before")
    return decide(plan, _to_observations(rows, scores, shares))


def test_an_arm_that_answers_more_instances_of_each_request_is_not_slower():
    rng = np.random.default_rng(1)
    columns = {"release": [], "arm": [], "at": [], "unit": [], "latency_ms": []}
    for number in range(3_000):
        step, share = ("first", 0.5) if number < 1_500 else ("second", 0.75)
        of_canary = rng.binomial(10, share)
        for arm, size in (("champion", 10 - of_canary), ("canary", of_canary)):
            columns["release"] += [step] * size
            columns["arm"] += [arm] * size
            columns["at"] += [BEGIN + timedelta(seconds=number)] * size
            columns["unit"] += [str(unit) for unit in rng.integers(10**9, size=size)]
            columns["latency_ms"] += [(0.3 + 0.1 * size) * rng.lognormal(0, 0.1)] * size
    assert decide_about(columns, {"first": 0.5, "second": 0.75}).action == "hold"


def test_entities_that_ask_often_do_not_decide_about_the_latency():
    """Each entity has a latency of its own, which its arm inherits."""
    decisions = []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        factor, is_canary = rng.lognormal(0, 0.5, 500), rng.random(500) < 0.25
        unit = rng.integers(0, 500, 20_000)
        columns = {
            "release": ["first"] * 20_000,
            "arm": np.where(is_canary[unit], "canary", "champion"),
            "unit": unit.astype(str),
            "latency_ms": factor[unit] * rng.lognormal(0, 0.2, 20_000),
        }
        decisions.append(decide_about(columns, {"first": 0.25}).action)
    assert decisions == ["hold"] * 6


def test_requests_that_share_calls_do_not_decide_about_the_latency():
    """The champion's calls answer ten requests, the canary's one, which the caches are ready for."""
    rng = np.random.default_rng(1)
    columns = {"release": [], "arm": [], "at": [], "unit": [], "latency_ms": [], "shared": [], "instance": []}
    for number in range(12_000):
        shared, is_canary = number % 8 > 0, rng.random(11) < 1 / 11
        columns["release"] += ["first"] * 11
        columns["arm"] += ["canary" if canary else "champion" for canary in is_canary]
        columns["at"] += [BEGIN + timedelta(seconds=number)] * 11
        columns["unit"] += [str(unit) for unit in rng.integers(10**9, size=11)]
        own = 0.3 * rng.lognormal(0, 0.1, 11) * np.where(is_canary, 1.3, 1)
        columns["latency_ms"] += list(np.where(is_canary, 0.1, 0.6) if shared else own)
        columns["shared"] += [shared] * 11
        columns["instance"] += [0] * 11
    decision = decide_about(columns, {"first": 1 / 11})
    assert decision.action == "roll back"
    assert decision.why.startswith("latency")
