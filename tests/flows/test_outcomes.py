"""outcomes: predictions and outcomes that were really ingested, and the errors before there are any."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import msgspec
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from tests.flows.traced import TracedShop, make_traced_shop

from headrace.config.settings import load_settings
from headrace.declare.event import Contract, contract_of
from headrace.events.ingest.ingest import Ingest
from headrace.flows.models.outcomes import outcomes
from headrace.kernel.errors import CallError
from headrace.kernel.ids import new_id
from headrace.serving.prediction import Prediction
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
