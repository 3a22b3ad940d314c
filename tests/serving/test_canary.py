"""The decision about a canary: advance, hold and roll back, by simulated traffic."""

import msgspec
import numpy as np
import pytest

from headrace.serving.canary import CanaryPlan, Observations, StepObservations, decide

PLAN = CanaryPlan("id", 1, 2, [0.05, 0.25, 1.0], 0, 1_000, 0, "higher", "before")
GOOD = {"errors": 0.001, "conversion": 0.05, "tail": 1.0}


def observe(rng, share, count, **canary):
    """One step with `count` requests. 5 % of them are slow; `tail` is the factor of their latency."""

    def arm(size, errors, conversion, tail):
        latencies = rng.lognormal(0, 0.3, size)
        latencies[rng.random(size) < 0.05] *= 2 * tail
        return StepObservations(
            (rng.random(size) < errors).tolist(),
            latencies.tolist(),
            (rng.random(size) < conversion).tolist(),
            size,
        )

    size = round(count * share)
    return Observations(share, arm(count - size, **GOOD), arm(size, **GOOD | canary))


def first_actions(rng, looks, step_requests, share, **canary):
    """The decision after each look at a growing step, up to the first that is no hold."""
    plan = msgspec.structs.replace(PLAN, steps=[share, 1.0], min_requests=10**9)
    step = observe(rng, share, looks * step_requests, **canary)
    for look in range(1, looks + 1):
        ends = [round(part * look / looks) for part in (len(step.champion.failed), len(step.canary.failed))]
        arms = [
            StepObservations(arm.failed[:end], arm.latencies[:end], arm.scores[:end], end)
            for arm, end in zip((step.champion, step.canary), ends, strict=True)
        ]
        decision = decide(plan, [Observations(share, *arms)])
        if decision.action != "hold":
            return decision
    return decision


@pytest.mark.parametrize(
    ("canary", "metric", "requests"),
    [
        ({"errors": 0.01}, "errors", 24_000),
        ({"tail": 1.5}, "latency", 24_000),
        ({"conversion": 0.01}, "outcomes", 24_000),
    ],
)
def test_a_worse_version_is_rolled_back_with_its_numbers(canary, metric, requests):
    for seed in range(3):
        decision = first_actions(np.random.default_rng(seed), 6, requests // 6, 0.25, **canary)
        assert decision.action == "roll back"
        assert decision.why.startswith(f"{metric}: ")
        assert "evidence" in decision.why


def test_an_equal_version_is_rarely_rolled_back_however_often_one_looks():
    actions = [first_actions(np.random.default_rng(seed), 8, 800, 0.25).action for seed in range(12)]
    assert actions.count("roll back") <= 1


@pytest.mark.soak
def test_an_equal_version_is_rolled_back_in_5_of_100_simulations_at_most():
    actions = [first_actions(np.random.default_rng(seed), 50, 800, 0.25).action for seed in range(600)]
    assert actions.count("roll back") <= 30


@pytest.mark.soak
@pytest.mark.parametrize(
    ("canary", "requests"),
    [({"errors": 0.01}, 20_000), ({"tail": 1.5}, 20_000), ({"conversion": 0.04}, 95_000)],
)
def test_a_worse_version_is_rolled_back_in_95_of_100_simulations(canary, requests):
    decisions = [
        first_actions(np.random.default_rng(seed), 50, requests // 50, 0.25, **canary) for seed in range(200)
    ]
    assert sum(decision.action == "roll back" for decision in decisions) >= 190


def test_a_step_advances_after_its_requests_and_outcomes():
    rng = np.random.default_rng(5)
    step = observe(rng, 0.05, 24_000)
    assert decide(PLAN, []).action == "hold"
    assert decide(PLAN, [step]).action == "advance"
    more = msgspec.structs.replace(PLAN, min_requests=1_201)
    assert decide(more, [step]).why == "1,200 of 1,201 requests and 1,200 of 0 outcomes so far"
    waiting = msgspec.structs.replace(PLAN, min_outcomes=1_201)
    assert decide(waiting, [step]).action == "hold"
    second = msgspec.structs.replace(PLAN, step=1)
    assert decide(second, [step, Observations(0.25, *[StepObservations([], [], [], 0)] * 2)]).action == "hold"
    last = msgspec.structs.replace(PLAN, step=2)
    assert "last step" in decide(last, [step]).why


def test_outcomes_that_become_known_at_the_last_step_roll_back():
    rng = np.random.default_rng(6)
    last = msgspec.structs.replace(PLAN, step=2)
    steps = [observe(rng, share, 40_000, conversion=0.01) for share in (0.05, 0.25)]
    whole = Observations(1.0, StepObservations([], [], [], 0), steps[1].canary)
    assert decide(last, [*steps, whole]).action == "roll back"


def look_at_late_outcomes(seed, looks=20, requests=24_000, **canary):
    """The action after each of the looks, until one is no hold. A success is known within an hour of its
    prediction, a failure within thirty: at first, most known outcomes are successes, in both arms."""
    rng = np.random.default_rng(seed)
    step = observe(rng, 0.25, requests, **canary)
    known = []
    for arm in (step.champion, step.canary):
        scores = np.asarray(arm.scores, np.float64)
        asked = np.sort(rng.uniform(0, 48, len(scores)))
        known.append((asked + rng.exponential(np.where(scores, 1.0, 30.0)), scores))
    plan = msgspec.structs.replace(PLAN, steps=[0.25, 1.0], min_requests=10**9)
    for hour in np.linspace(0, 200, looks):
        arms = []
        for times, scores in known:
            order = np.argsort(times)
            arms.append(StepObservations([], [], scores[order][times[order] <= hour], 0))
        decision = decide(plan, [Observations(0.25, *arms)])
        if decision.action != "hold":
            break
    return decision.action


def test_late_outcomes_roll_back_a_worse_version_and_no_equal_one():
    assert [look_at_late_outcomes(seed, conversion=0.01) for seed in range(5)] == ["roll back"] * 5
    assert [look_at_late_outcomes(seed, 8) for seed in range(10)].count("roll back") <= 1


@pytest.mark.soak
def test_late_outcomes_are_rightly_judged_in_many_simulations():
    late = [look_at_late_outcomes(seed, requests=110_000, conversion=0.04) for seed in range(100)]
    assert late.count("roll back") >= 95
    assert [look_at_late_outcomes(seed) for seed in range(400)].count("roll back") <= 20


def test_numbers_are_compared_with_the_champions_median():
    rng = np.random.default_rng(7)

    def scored(canary):
        arms = [
            StepObservations([], [], (-np.abs(rng.normal(0, scale, size))).tolist(), 0)
            for scale, size in ((1.0, 9_000), (canary, 3_000))
        ]
        return decide(PLAN, [Observations(0.25, *arms)])

    assert scored(1.0).action == "hold"
    assert (scored(1.5).action, scored(1.5).why[:9]) == ("roll back", "outcomes:")


@pytest.mark.parametrize(
    ("buyers", "factor", "action"),
    [(0.3, 1.0, "hold"), (0.1, 1.0, "roll back"), (0.3, 0.0, "roll back"), (0.5, 1.0, "hold")],
)
def test_revenue_that_most_customers_do_not_bring_is_compared(buyers, factor, action):
    """The champion's median is 0, and no outcome is less. Of its customers 30 % buy."""
    rng = np.random.default_rng(8)

    def spend(size, share, times):
        return np.where(rng.random(size) < share, rng.lognormal(2, 1, size) * times, 0.0)

    champion, canary = spend(9_000, 0.3, 1.0), spend(3_000, buyers, factor)
    assert np.median(champion[:500]) == 0
    arms = StepObservations([], [], champion, 0), StepObservations([], [], canary, 0)
    decision = decide(PLAN, [Observations(0.25, *arms)])
    assert decision.action == action
    assert ("not over 0" in decision.why) == (action == "roll back")


@pytest.mark.parametrize(("outcome", "action"), [(2.5, "hold"), (2.4, "roll back"), (2.6, "hold")])
def test_outcomes_that_are_all_equal_are_compared(outcome, action):
    arms = StepObservations([], [], [2.5] * 9_000, 0), StepObservations([], [], [outcome] * 3_000, 0)
    assert decide(PLAN, [Observations(0.25, *arms)]).action == action


@pytest.mark.parametrize(("factor", "more", "action"), [(1.1, 0.05, "hold"), (1.3, 0.05, "roll back")])
def test_an_arm_that_is_asked_rarely_may_be_a_little_slower(factor, more, action):
    rng = np.random.default_rng(8)
    champion, canary = rng.lognormal(-1, 0.3, 15_000), rng.lognormal(-1, 0.3, 5_000) * factor + more
    plan = msgspec.structs.replace(PLAN, min_requests=10**9)
    arms = StepObservations([], champion, [], 15_000), StepObservations([], canary, [], 5_000)
    assert decide(plan, [Observations(0.25, *arms)]).action == action


def test_the_numbers_of_a_rollback_are_those_that_decided():
    """The canary's median is doubled, its slowest answers are not slower."""
    rng = np.random.default_rng(9)
    champion, canary = rng.uniform(0, 10, 15_000), rng.uniform(5, 10, 5_000)
    arms = StepObservations([], champion, [], 15_000), StepObservations([], canary, [], 5_000)
    latency = decide(PLAN, [Observations(0.25, *arms)]).comparisons[1]
    assert latency.canary_bad > latency.champion_bad + 0.3
    limit = np.median(champion[:500])
    assert latency.what == f"over {limit:.3g} ms (the canary: {limit * 1.1 + 0.05:.3g} ms)"
