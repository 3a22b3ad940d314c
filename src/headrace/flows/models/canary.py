"""canary: a release in steps, which advances, holds or is rolled back by what is observed.

The plan is in the canary's releases on the topic, and what is observed is in tables. So a decision can be made
again at any time by any process, and nothing is lost if one is killed.
"""

from __future__ import annotations

import getpass
import logging
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from headrace.config.settings import Settings
from headrace.declare.metrics import Task
from headrace.features.plan import decode_plan
from headrace.flows.models.aliases import find_moved_aliases
from headrace.flows.models.outcomes import add_outcomes, are_targets
from headrace.flows.models.release import check_model, parse_arm, put_in_force, set_aliases, try_arms
from headrace.kernel.errors import CallError, HeadraceError
from headrace.kernel.ids import new_id
from headrace.serving import release as releases
from headrace.serving.canary import Better, CanaryPlan, Decision, Observations, StepObservations, decide
from headrace.serving.canary_steps import StepSummary, summarize
from headrace.serving.prediction import REQUEST, TABLE, number_requests, scan_predictions
from headrace.serving.release import Arm, Release, ReleaseFollower
from headrace.training.files import PLAN
from headrace.training.report import read_report
from headrace.workspace import Workspace

if TYPE_CHECKING:
    import polars as pl

__all__ = ["CanaryReview", "find_canaries", "review", "review_all", "review_each", "run_canaries", "start"]

_logger = logging.getLogger(__name__)
_EVERY = 30.0  # seconds between two reviews
_PAUSE = 9.0  # of the duration of a review, if it is longer
_COLUMNS = (
    "id",
    "at",
    "arm",
    "instance",
    "entity",
    "value",
    "latency_ms",
    "error",
    "release",
    "shadow_of",
    "shared",
)
_CHAMPION, _CANARY = "champion", "canary"
_CALLS_READ = 500  # of the champion, which say how many instances are usual in a call
_BY = "canary"  # who decides


class CanaryReview(Struct, frozen=True):
    """A canary and the decision about it.

    Attributes:
        release: the release in force.
        decision: what to do now, and why.
        steps: how the arms did in each step so far that had a champion to compare with.
    """

    release: Release
    decision: Decision
    steps: list[StepSummary]


def start(
    workspace: Workspace,
    model: str,
    arm: str,
    steps: Sequence[float],
    *,
    min_requests: int = 1_000,
    min_outcomes: int = 0,
    better: Better = "right",
    why: str = "",
    override: bool = False,
) -> Release:
    """Puts the first step of a canary in force.

    Args:
        workspace: the project to work on.
        model: the model's name.
        arm: `canary=4`.
        steps: the canary's share in each step, rising, above 0 and up to 1.
        min_requests: how many requests the canary must have answered in a step before the next one.
        min_outcomes: how many of them must have a known outcome.
        better: see CanaryPlan.
        why: the reason.
        override: whether a version that the gate refused may get traffic.

    Raises:
        CallError: the arm, a step or a number is not valid, the model has no champion, it is the same
            version, or a part of the traffic goes to another version already.
        Refused, Unavailable: as flows.models.release.release; or someone has released meanwhile.
    """
    name, version, share = parse_arm(arm)
    if name != _CANARY or share is not None:
        raise CallError(f"{arm!r} is not a canary", remedy="With --steps, write canary=VERSION.")
    if not steps or any(not 0 < step <= 1 for step in steps) or sorted(set(steps)) != list(steps):
        raise CallError(
            f"{', '.join(f'{step:g}' for step in steps)} are not valid steps",
            remedy="Write rising shares, such as --steps 1%,5%,25%,100%",
        )
    for option, number in (("min_requests", min_requests), ("min_outcomes", min_outcomes)):
        if number < 0:
            raise CallError(f"{option}={number} must be at least 0")
    current = releases.find_current(workspace.log, model)
    if current is None:
        check_model(workspace, model)
        raise CallError(f"model {model!r} has no champion yet", remedy=f"headrace release {model} champion=1")
    champion = releases.champion_version(current)
    if champion == version:
        raise CallError(f"version {version} of model {model!r} is the champion already")
    _check_no_other_share(current)
    plan = CanaryPlan(
        new_id(), champion, version, list(steps), 0, min_requests, min_outcomes, better, current.id
    )
    new = _make_step(current, plan, by=getpass.getuser(), why=why, override=override)
    try_arms(workspace, new)
    return put_in_force(workspace, new)


def _check_no_other_share(current: Release) -> None:
    """Raises CallError if another version than the champion answers: a canary would end its share unasked."""
    others = [arm for arm in current.arms if not arm.shadow and arm.name != _CHAMPION]
    if others:
        arm = others[0]
        raise CallError(
            f"{arm.name} (version {arm.version}) of model {current.model!r} has a share of {arm.weight:g}",
            remedy="A canary divides the traffic with the champion alone. End that share first: headrace"
            f" rollback {current.model}, or headrace release {current.model} champion=N",
        )


def review(workspace: Workspace, model: str) -> CanaryReview:
    """The model's canary and what to do with it now. Nothing is changed.

    Raises:
        CallError: the model has no canary.
        ProjectError: its outcomes cannot be joined with the predictions.
    """
    release = find_canaries(workspace).get(model)
    if release is None:
        check_model(workspace, model)
        raise CallError(
            f"model {model!r} has no canary{_describe_last(releases.history(workspace.log, model))}",
            remedy=f"headrace release {model} canary=VERSION --steps 1%,5%,25%,100%",
        )
    return _review(workspace, release)


def _describe_last(history: Sequence[Release]) -> str:
    """How the last canary ended, of a model that has none now; empty if it never had one."""
    last = max((index for index, release in enumerate(history) if release.canary is not None), default=None)
    if last is None:
        return ""
    end = history[last + 1]
    return f"; the last one was ended by {end.by} at {end.at:%F %T} UTC: {end.why or 'a release'}"


def review_each(workspace: Workspace, canaries: Iterable[Release]) -> dict[str, CanaryReview | str]:
    """Model → its canary and what to do with it now, or why that is unknown. Nothing is changed.

    Args:
        workspace: the project to work on.
        canaries: releases in force that are steps of a canary.
    """
    reviews: dict[str, CanaryReview | str] = {}
    for release in canaries:
        try:
            reviews[release.model] = _review(workspace, release)
        except HeadraceError as error:  # the other canaries are shown
            reviews[release.model] = error.what
        except Exception as error:  # an outcome that cannot be scored, a damaged record
            _logger.debug("the canary of %s cannot be reviewed", release.model, exc_info=True)
            reviews[release.model] = f"{type(error).__name__}: {error}"
    return reviews


def review_all(workspace: Workspace, settled: set[str] | None = None) -> list[CanaryReview]:
    """Reviews every canary, and puts its next step or its rollback in force.

    If a process was killed between a decision's record and the aliases, they are set now.

    Args:
        workspace: the project to work on.
        settled: the ids of the releases whose aliases were seen right before; this function adds to it. Theirs
            are not set again: whoever has moved one since meant it, and `status` shows it.

    Returns:
        The canaries that were advanced or rolled back, with the release before the decision.
    """
    changed = []
    settled = set() if settled is None else settled
    for release in _read_in_force(workspace).values():
        try:
            if release.by == _BY and release.id not in settled:
                moved = find_moved_aliases(workspace, [release])
                if moved:
                    _logger.warning(
                        "aliases of %s are set as release %s says: %s", release.model, release.id, moved
                    )
                    set_aliases(workspace, release)
                settled.add(release.id)
            if release.canary is None:
                continue
            reviewed = _review(workspace, release)
            if reviewed.decision.action != "hold":
                _apply(workspace, reviewed)
                changed.append(reviewed)
        except HeadraceError as error:  # the next review tries again
            _logger.warning("the canary of %s cannot be reviewed: %s", release.model, error)
        except Exception:  # an outcome that cannot be scored, a damaged bundle: the other canaries go on
            _logger.exception("the canary of %s cannot be reviewed", release.model)
    return changed


def run_canaries(settings: Settings, stop: threading.Event) -> None:
    """Reviews the canaries regularly until `stop` is set. Blocks, so run it in a thread.

    A review reads all predictions of the canaries' steps again. The pause is nine times as long as the review
    before it, so that reviews take a tenth of the time at most. The tests are valid however often one looks.
    """
    pause = _EVERY
    settled: set[str] = set()
    while not stop.wait(pause):
        begun = time.monotonic()
        try:
            with Workspace(settings) as workspace:
                for reviewed in review_all(workspace, settled):
                    _logger.warning(
                        "canary of %s: %s: %s",
                        reviewed.release.model,
                        reviewed.decision.action,
                        reviewed.decision.why,
                    )
        except HeadraceError as error:  # the project or the log cannot be read now
            _logger.warning("canaries: %s", error)
        except Exception:  # the thread must not end
            _logger.exception("canaries")
        pause = max(_EVERY, _PAUSE * (time.monotonic() - begun))


def find_canaries(workspace: Workspace) -> dict[str, Release]:
    """Model → its release in force, for each model whose release is a step of a canary."""
    in_force = _read_in_force(workspace)
    return {model: release for model, release in in_force.items() if release.canary is not None}


def _read_in_force(workspace: Workspace) -> dict[str, Release]:
    """Model → its release in force."""
    follower = ReleaseFollower(workspace.log)
    follower.poll()
    return follower.in_force


def _make_step(before: Release, plan: CanaryPlan, *, by: str, why: str, override: bool) -> Release:
    """A step of a canary, which is void if another release than `before` is in force when it is appended.

    Shadows stay as they are.
    """
    if plan.share < 1:
        arms = [Arm(plan.champion, 1 - plan.share, name=_CHAMPION), Arm(plan.version, plan.share, name=_CANARY)]
    else:
        arms = [Arm(plan.version, name=_CHAMPION)]
    arms += [arm for arm in before.arms if arm.shadow]
    return releases.make(before.model, arms, by=by, why=why, override=override, canary=plan, follows=before.id)


def _apply(workspace: Workspace, reviewed: CanaryReview) -> None:
    """Puts what was decided in force. Raises Refused if someone has released meanwhile."""
    release, decision = reviewed.release, reviewed.decision
    plan = release.canary
    assert plan is not None  # only canaries are reviewed
    why = f"{decision.action}: {decision.why}"
    if decision.action == "advance":
        following = msgspec.structs.replace(plan, step=plan.step + 1)
        new = _make_step(release, following, by=_BY, why=why, override=release.override)
    else:
        history = releases.history(workspace.log, release.model)
        (before,) = [earlier for earlier in history if earlier.id == plan.restores]
        new = releases.make(
            release.model,
            before.arms,
            by=_BY,
            why=why,
            override=before.override,
            restores=before.id,
            follows=release.id,
        )
    put_in_force(workspace, new)


def _review(workspace: Workspace, release: Release) -> CanaryReview:
    assert release.canary is not None  # the caller has chosen it so
    observations = _observe(workspace, release)
    return CanaryReview(release, decide(release.canary, observations), summarize(observations))


def _observe(workspace: Workspace, release: Release) -> list[Observations]:
    """What was observed in each step of the canary, from the ingested predictions and outcomes.

    A step with all of the traffic has no champion to compare with. It can be in force for months, so its
    predictions are not read.
    """
    import polars as pl

    plan = release.canary
    assert plan is not None  # only canaries are reviewed
    steps = {
        earlier.id: earlier.canary.share
        for earlier in releases.history(workspace.log, release.model)
        if earlier.canary is not None and earlier.canary.id == plan.id and earlier.canary.share < 1
    }
    if not steps or not workspace.lake.table_exists(TABLE):
        return []
    rows = (
        scan_predictions(workspace.lake)
        .filter(pl.col("model") == release.model, pl.col("release").is_in(list(steps)))
        .filter(~pl.col("shadow"))
        .select(_COLUMNS)
        .collect()
        .sort("at", "id")
    )
    rows = rows.with_columns(unit=_find_unit(workspace, release))
    answered = _keep_first_of_units(rows).filter(pl.col("error").is_null())
    return _to_observations(rows, _read_scores(workspace, release, answered, plan.better), steps)


def _to_observations(
    rows: pl.DataFrame, scores: pl.DataFrame, steps: Mapping[str, float]
) -> list[Observations]:
    """What was observed in each step.

    Args:
        rows: the predictions of both arms in order of time, each with the `unit` that the traffic is split by.
        scores: `release`, `arm` and `score` of the known outcomes, in their order.
        steps: the release of each step → the canary's share.
    """
    import polars as pl

    answered = number_requests(rows.filter(pl.col("error").is_null()))
    requests = answered.unique(REQUEST, keep="first", maintain_order=True)
    # The instances that an arm answers together have one time. A call that several requests share is left out:
    # how long it takes, and what is in the processor's caches then, depends on the arm's share of the traffic.
    call = ["release", "arm", "at", "latency_ms"]
    calls = (
        answered.filter(~pl.col("shared").fill_null(False))
        .with_columns(size=pl.len().over(call))
        .unique(call, keep="first", maintain_order=True)
    )
    # The work of a call depends on its size, and that on the arm's share of the instances.
    usual = calls.filter(pl.col("arm") == _CHAMPION)["size"].head(_CALLS_READ).mode().sort().head(1)
    compared = _keep_first_of_units(calls.filter(pl.col("size").is_in(usual.implode())))
    first = _keep_first_of_units(rows)

    def observe_arm(step: str, arm: str) -> StepObservations:
        own = (pl.col("release") == step) & (pl.col("arm") == arm)
        return StepObservations(
            failed=first.filter(own)["error"].is_not_null().to_numpy(),
            latencies=compared.filter(own)["latency_ms"].to_numpy(),
            scores=scores.filter(own)["score"].to_numpy(),
            requests=len(requests.filter(own)),
        )

    return [
        Observations(share, observe_arm(step, _CHAMPION), observe_arm(step, _CANARY))
        for step, share in steps.items()
    ]


def _keep_first_of_units(rows: pl.DataFrame) -> pl.DataFrame:
    """The first row of each unit in each step: requests of one entity are not independent."""
    return rows.unique(["release", "unit"], keep="first", maintain_order=True)


def _find_unit(workspace: Workspace, release: Release) -> pl.Expr:
    """What the traffic is split by, of each prediction."""
    import polars as pl

    bundle = workspace.registry.bundle(release.model, release.arms[0].version)
    entities = decode_plan((bundle / PLAN).read_bytes()).entities
    if not entities:
        return pl.col("id")
    path = f"$[{msgspec.json.encode(entities[0].join_key).decode()}]"
    return pl.coalesce(pl.lit("=") + pl.col("entity").str.json_path_match(path), pl.col("id"))


def _read_scores(workspace: Workspace, release: Release, rows: pl.DataFrame, better: Better) -> pl.DataFrame:
    """`release`, `arm` and `score` of the predictions whose outcome is known, in the order of the outcomes."""
    import polars as pl

    declared = workspace.whole_project.models.get(release.model)
    joined = add_outcomes(workspace, None if declared is None else declared.outcomes, rows)
    known = joined.drop_nulls("outcome").sort("outcome_at", "id")
    if declared is None or known.is_empty():  # a model that is no longer declared is judged by the rest
        return known.select("release", "arm", score=pl.lit(0.0))
    report = read_report(workspace.registry.bundle(release.model, release.arms[0].version))
    if better == "right":
        known = known.filter(are_targets(report, known["outcome"]))
    pairs = zip(known["value"], known["outcome"], strict=True)
    scores = [
        _score(msgspec.json.decode(value), outcome, better, report.task, declared.threshold)
        for value, outcome in pairs
    ]
    return known.select("release", "arm", pl.Series("score", scores, dtype=pl.Float64))


def _score(value: Any, outcome: Any, better: Better, task: Task, threshold: float) -> float:
    """How good an outcome is: 1 or 0, or a number of which a greater one is better."""
    if better == "right":
        if task == "binary":
            return float((value >= threshold) == (outcome == 1))
        return (
            float(str(value) == str(outcome)) if task == "multiclass" else -abs(float(value) - float(outcome))
        )
    if isinstance(outcome, str):
        raise CallError(f"outcomes that are text, such as {outcome!r}, are neither higher nor lower")
    return float(outcome) if better == "higher" else 1.0 - float(outcome)
