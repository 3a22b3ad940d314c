"""outcomes and canaries: of predictions and outcomes that were really ingested."""

from __future__ import annotations

import html
import shutil
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import httpx
import msgspec
import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score
from tests.flows.traced import TracedShop, make_traced_shop

from headrace.cli.canary_text import describe_canary
from headrace.config.settings import load_settings
from headrace.console.app import app
from headrace.declare.event import Contract, contract_of
from headrace.events.ingest.ingest import Ingest
from headrace.flows.models.canary import (
    CanaryReview,
    _score,
    find_canaries,
    review,
    review_all,
)
from headrace.flows.models.outcomes import are_targets, decode_outputs, evaluate_outcomes, outcomes
from headrace.flows.project.status import status
from headrace.http.serve import serve
from headrace.kernel.errors import CallError, ProjectError
from headrace.kernel.ids import new_id
from headrace.serving import release as releases
from headrace.serving.canary import CanaryPlan
from headrace.serving.prediction import Prediction
from headrace.serving.release import Arm, Release
from headrace.training.evaluation import evaluator_for
from headrace.training.report import read_report
from headrace.workspace import Workspace

OUTCOMES = '''
"""What was bought in the end."""

from datetime import datetime

from headrace import Struct, event


@event(topic="receipts", time="at", identity=["user_id", "product_id", "at"])
class Receipt(Struct):
    user_id: int
    product_id: int
    at: datetime
    is_paid: bool
'''
USERS = 40


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> TracedShop:
    """The shop with a version of its model, whose outcomes are receipts."""
    shop = make_traced_shop(tmp_path_factory.mktemp("outcomes"))
    package = shop.settings.root / "shop"
    (package / "receipts.py").write_text(OUTCOMES)
    models = (package / "models.py").read_text()
    models = models.replace("    Model,\n", "    Model,\n    Outcomes,\n")
    models = models.replace("from shop.split", "from shop.receipts import Receipt\nfrom shop.split")
    models = models.replace(
        "    refresh=", '    outcomes=Outcomes(Receipt, value="is_paid", within="1h"),\n    refresh='
    )
    (package / "models.py").write_text(models)
    return shop


@pytest.fixture
def workspace(shop: TracedShop) -> Iterator[Workspace]:
    with Workspace(load_settings(shop.settings.root)) as workspace:
        yield workspace


def ingest(workspace: Workspace, contract: Contract, records: list[object]) -> None:
    workspace.log.create(contract.topic)
    if records:
        workspace.log.append(contract.topic, [msgspec.json.encode(record) for record in records])
    Ingest(contract, workspace.log, workspace.lake).run(True, threading.Event())


def test_a_model_without_outcomes_is_named(tmp_path: Path) -> None:
    plain = make_traced_shop(tmp_path)
    with (
        Workspace(plain.settings) as workspace,
        pytest.raises(CallError, match="declares no outcomes") as refused,
    ):
        outcomes(workspace, "purchase")
    assert "models.py:" in str(refused.value.where)


def test_arms_are_compared_by_what_happened(workspace: Workspace, shop: TracedShop) -> None:
    with pytest.raises(CallError, match="table 'receipts' does not exist"):
        outcomes(workspace, "purchase")
    first, at = shop.prediction, shop.prediction.at
    values = np.random.default_rng(1).random(USERS)
    asked = [
        msgspec.structs.replace(
            first, id=new_id(), entity={"user_id": 100 + user, "product_id": 7}, value=float(values[user])
        )
        for user in range(USERS)
    ]
    later = [
        msgspec.structs.replace(prediction, id=new_id(), release="other", arm="challenger")
        for prediction in asked[:3]
    ]
    predictions = contract_of(Prediction)
    assert predictions is not None
    receipt = workspace.project.contract("receipts")
    paid = values + np.random.default_rng(2).normal(0, 0.3, USERS) > 0.5
    receipts = [
        {
            "user_id": 100 + user,
            "product_id": product,
            "at": at + timedelta(minutes=1),
            "is_paid": bool(paid[user]),
        }
        for user, product in [*((user, 7) for user in range(30)), (35, 8)]  # product 8 was not asked for
    ]
    receipts.append({"user_id": 136, "product_id": 7, "at": at + timedelta(hours=2), "is_paid": True})
    ingest(workspace, receipt, receipts)
    with pytest.raises(CallError, match="table 'headrace_predictions' does not exist"):
        outcomes(workspace, "purchase")
    ingest(workspace, predictions, [*asked, *later])

    report = outcomes(workspace, "purchase")
    counts = {(arm.release, arm.arm): (arm.predictions, arm.known) for arm in report.arms}
    # The prediction that the shop was made with is in the champion's arm, too.
    assert counts == {(first.release, "champion"): (USERS + 1, 30), ("other", "challenger"): (3, 3)}
    champion = next(arm for arm in report.arms if arm.arm == "champion")
    assert champion.metrics["accuracy"] == pytest.approx(np.mean((values[:30] >= 0.5) == paid[:30]))
    assert champion.metrics["roc_auc"] == pytest.approx(roc_auc_score(paid[:30], values[:30]))
    known = {row["id"]: row["outcome"] for row in report.rows.iter_rows(named=True)}
    assert [known[prediction.id] for prediction in asked[:30]] == paid[:30].tolist()
    assert {known[prediction.id] for prediction in asked[30:]} == {None}


def log_canary(
    workspace: Workspace, shop: TracedShop, release: Release, success: float, first_user: int
) -> None:
    """Ingests 120 predictions of each arm of a release, and outcomes: a half of the champion's are good."""
    asked, receipts = [], []
    for number in range(240):
        arm = release.arms[number % 2]
        user = first_user + number
        at = shop.prediction.at + timedelta(seconds=number)
        asked.append(
            msgspec.structs.replace(
                shop.prediction,
                id=new_id(),
                entity={"user_id": user, "product_id": 7},
                arm=arm.name,
                version=arm.version,
                release=release.id,
                at=at,
            )
        )
        share = 0.5 if arm.name == "champion" else success
        is_paid = number // 2 % 10 < share * 10
        receipts.append({"user_id": user, "product_id": 7, "at": at, "is_paid": is_paid})
    predictions = contract_of(Prediction)
    assert predictions is not None
    ingest(workspace, predictions, list(asked))
    ingest(workspace, workspace.project.contract("receipts"), list(receipts))


def check_display(workspace: Workspace, success: float) -> None:
    """The status and the console show how each arm did in the only step."""
    shown = status(workspace, load_features=False).canaries["purchase"]
    assert isinstance(shown, CanaryReview)
    assert shown == review(workspace, "purchase")
    (step,) = shown.steps
    for arm, score in ((step.champion, 0.5), (step.canary, success)):
        assert (arm.requests, arm.entities, arm.failed, arm.outcomes) == (120, 120, 0, 120)
        assert arm.mean_score == pytest.approx(score)
        assert arm.p50_ms == arm.p99_ms
    assert describe_canary(shown).endswith(f"{shown.decision.action}, because {shown.decision.why}")
    with serve(app(workspace.settings), "127.0.0.1", 0) as server:
        page = html.unescape(httpx.get(server.url, timeout=60).text)
    assert f"{shown.decision.action}</span>, because {shown.decision.why}" in page
    cells = [">50 %<", ">canary<", ">120<", ">0.000 %<", f">{step.canary.p50_ms:.3g}<"]
    assert sum(all(cell in row for cell in cells) for row in page.split("<tr>")) == 1


def test_a_canary_is_rolled_back_or_advances_by_what_was_ingested(shop: TracedShop, tmp_path: Path) -> None:
    with Workspace(load_settings(shop.settings.root)) as workspace:
        registry = workspace.registry
        bundle = shutil.copytree(registry.bundle("purchase", shop.prediction.version), tmp_path / "bundle")
        (bundle / "note.txt").write_text("another version")
        registry.register("purchase", bundle, metrics={}, params={}, tags={})
        (champion, other) = sorted(version.version for version in registry.versions("purchase"))
        before = releases.make("purchase", [Arm(champion)], by="anna", why="the first")
        releases.append(workspace.log, before)
    for success, action in ((0.0, "roll back"), (0.5, "advance")):
        with Workspace(load_settings(shop.settings.root)) as workspace:
            plan = CanaryPlan(f"to {action}", champion, other, [0.5, 1.0], 0, 100, 100, "higher", before.id)
            arms = [Arm(champion, 0.5), Arm(other, 0.5, name="canary")]
            step = releases.make("purchase", arms, by="anna", why="try", canary=plan)
            releases.append(workspace.log, step)
            assert review(workspace, "purchase").decision.action == "hold"
            log_canary(workspace, shop, step, success, 1_000 if success else 2_000)
        # Each review begins anew, as after a kill: nothing but the topic and the tables says where it was.
        with Workspace(load_settings(shop.settings.root)) as workspace:
            decision = review(workspace, "purchase").decision
            assert decision.action == action, decision
            comparison = decision.comparisons[-1]
            assert (comparison.champion, comparison.canary) == (120, 120)
            assert (comparison.champion_bad, comparison.canary_bad) == (0.5, 1 - success)
            check_display(workspace, success)
            (changed,) = review_all(workspace)
            assert (changed.release, changed.decision) == (step, decision)
            assert review_all(workspace) == []
            current = releases.find_current(workspace.log, "purchase")
            assert current is not None
            assert (current.by, current.why.startswith(action)) == ("canary", True)
            if action == "roll back":
                assert (current.restores, current.arms, current.canary) == (before.id, before.arms, None)
                with pytest.raises(CallError, match=r"no canary; .* ended by canary at .* UTC: roll back: o"):
                    review(workspace, "purchase")
            else:
                assert current.canary == msgspec.structs.replace(plan, step=1)
                assert current.arms == [Arm(other)]
                assert review(workspace, "purchase").decision.action == "hold"
            assert workspace.registry.version("purchase", "champion").version == current.arms[0].version


@pytest.mark.parametrize("labels", [("ash", "oak", "yew"), (1, 2, 10)])
def test_outcomes_of_several_classes_are_compared_with_the_probabilities(
    workspace: Workspace, labels: tuple[str | int, ...], caplog: pytest.LogCaptureFixture
) -> None:
    evaluation = evaluator_for("multiclass").evaluate([0, 1, 2], np.eye(3), labels)
    report = read_report(workspace.registry.bundle("purchase", 1))
    report = msgspec.structs.replace(report, task="multiclass", test=evaluation)
    answers = [(0, [0.7, 0.2, 0.1]), (1, [0.1, 0.6, 0.3]), (1, [0.2, 0.5, 0.3]), (2, [0.0, 0.4, 0.6])]
    names = [str(label) for label in labels]
    rows = pl.DataFrame(
        {
            "value": [msgspec.json.encode(labels[code]).decode() for code, _ in answers],
            "probabilities": [
                msgspec.json.encode(dict(zip(names, probabilities, strict=True))).decode()
                for _, probabilities in answers
            ],
        }
    )
    outputs = decode_outputs(rows, labels)
    assert outputs.tolist() == [probabilities for _, probabilities in answers]
    happened = pl.Series([labels[0], labels[2], labels[1], labels[2]])
    metrics = evaluate_outcomes(report, happened, outputs, 0.5)
    assert metrics["accuracy"] == pytest.approx(3 / 4)
    assert metrics["log_loss"] == pytest.approx(-np.mean(np.log([0.7, 0.3, 0.5, 0.6])))
    unknown = pl.Series([labels[0], labels[2], labels[1], "elm" if labels[0] == "ash" else 99])
    assert evaluate_outcomes(report, unknown, outputs, 0.5)["accuracy"] == pytest.approx(2 / 3)
    assert "not values of the model's target" in caplog.text
    assert evaluate_outcomes(report, happened[:1], outputs[:1], 0.5) == {}


@pytest.mark.parametrize(
    ("task", "value", "outcome", "score"),
    [
        ("binary", 0.7, True, 1.0),
        ("binary", 0.7, 1, 1.0),
        ("binary", 0.7, 0, 0.0),
        ("binary", 0.2, 0, 1.0),
        ("multiclass", "oak", "oak", 1.0),
        ("multiclass", 3, 3, 1.0),
        ("multiclass", "3", 3, 1.0),  # as the metrics compare them
        ("multiclass", 3, 4, 0.0),  # the labels 3 and 4 are not close to each other
        ("regression", 3.0, 5, -2.0),
    ],
)
def test_a_right_answer_is_judged_by_the_task(task, value, outcome, score) -> None:
    assert _score(value, outcome, "right", task, 0.5) == score


@pytest.mark.parametrize(
    ("task", "outcomes", "are_valid"),
    [
        ("binary", [True, False], [True, True]),
        ("binary", [1.0, 0.0, 2.0, 0.5], [True, True, False, False]),
        ("regression", [3, -1], [True, True]),
    ],
)
def test_only_values_of_the_target_are_compared(
    workspace: Workspace, task, outcomes, are_valid, caplog
) -> None:
    report = msgspec.structs.replace(read_any_report(workspace), task=task)
    assert are_targets(report, pl.Series(outcomes)).to_list() == are_valid
    assert ("are left out: 0.5, 2.0" in caplog.text) == (False in are_valid)


@pytest.mark.parametrize("task", ["binary", "regression"])
def test_text_is_no_outcome_of_a_number(workspace: Workspace, task) -> None:
    """In a canary every answer would count as wrong, and the metrics would end in an error of Polars."""
    report = msgspec.structs.replace(read_any_report(workspace), task=task)
    for check in (
        lambda: are_targets(report, pl.Series(["yes", "1"])),
        lambda: evaluate_outcomes(report, pl.Series(["yes", "1"]), np.array([0.1, 0.9]), 0.5),
    ):
        with pytest.raises(ProjectError, match="are String, and its target is a number"):
            check()
    assert evaluate_outcomes(report, pl.Series([], dtype=pl.Null), np.zeros(0), 0.5) == {}


def read_any_report(workspace: Workspace):
    (first, *_) = workspace.registry.versions("purchase")
    return read_report(workspace.registry.bundle("purchase", first.version))


def test_a_release_by_a_person_ends_a_canary(workspace: Workspace) -> None:
    versions = sorted(version.version for version in workspace.registry.versions("purchase"))
    releases.append(workspace.log, releases.make("purchase", [Arm(versions[0])], by="anna", why="no more"))
    assert find_canaries(workspace) == {}
    assert review_all(workspace) == []
    with pytest.raises(CallError, match="has no canary"):
        review(workspace, "purchase")
