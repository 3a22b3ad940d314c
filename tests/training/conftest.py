from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from headrace import lake
from headrace.config.settings import make_settings
from headrace.declare.gate import at_least, not_worse_than_champion
from headrace.declare.model import Model
from headrace.declare.place import Place
from headrace.declare.search import Tune, integers, loguniform
from headrace.declare.splits import ByTime
from headrace.declare.table import Table
from headrace.declare.trainers import XGBoost
from headrace.features.plan import AsOfView, EntityKey, FeaturePlan, FeatureRef, PlanField
from headrace.lake import Lake
from headrace.projects.project import Project

START = datetime(2026, 1, 1, tzinfo=UTC)
INSTANT = pl.Datetime("us", "UTC")


def pytest_configure(config: pytest.Config) -> None:
    for allowed in (
        "ignore:The ``noload`` loader strategy",  # MLflow's own calls of SQLAlchemy
        "ignore:.*Any type hint is inferred:UserWarning",  # MLflow's, of one of its own classes
        "ignore:::ray.*",
        "ignore:.*:ResourceWarning",  # Ray's sockets and log files, closed when it ends
    ):
        config.addinivalue_line("filterwarnings", allowed)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    settings = make_settings(tmp_path, "shop", state=tmp_path / ".headrace" / "local")
    return Project(settings, {}, {}, {}, {}, {}, ())


@pytest.fixture
def empty_lake(project: Project) -> Lake:
    return lake.open(project.settings)


def make_model(**options: Any) -> Model:
    """A model `m` with the target `y`, trained by XGBoost."""
    labels = Table(name="outcomes", function=lambda frame: frame, reads=(), place=Place("?", 0))
    return Model("m", **{"labels": labels, "target": "y", "features": None, "trainer": XGBoost(), **options})


@pytest.fixture
def model() -> Model:
    labels = Table(name="outcomes", function=lambda frame: frame, reads=(), place=Place("?", 0))
    return Model(
        "purchase",
        labels=labels,
        target="bought",
        features=None,
        trainer=XGBoost(num_boost_round=60, early_stopping_rounds=10, max_depth=3),
        tune=Tune("roc_auc", n_trials=4, space={"max_depth": integers(2, 4), "eta": loguniform(0.05, 0.3)}),
        split=ByTime(0.2, 0.2, gap="30m"),
        gate=[at_least("roc_auc", 0.7), not_worse_than_champion("pr_auc")],
    )


@pytest.fixture
def plan() -> FeaturePlan:
    """Two features of a customer, as of the label's time."""
    features = (PlanField("mood", "float64"), PlanField("kind", "string"))
    view = AsOfView("facts", ("user_id",), "facts", "event_timestamp", features)
    return FeaturePlan(
        "purchase",
        (EntityKey("user", "user_id", "int64"),),
        (view,),
        tuple(FeatureRef("facts", field.name, field.dtype) for field in features),
    )


def write_facts(home: Lake, users: int = 200) -> None:
    """A mood for each user, known since before the first label."""
    rng = np.random.default_rng(3)
    rows = pl.DataFrame(
        {
            "user_id": np.arange(users),
            "event_timestamp": [START - timedelta(days=1)] * users,
            "mood": rng.normal(size=users),
            "kind": rng.choice(["new", "old"], users),
        },
        schema_overrides={"event_timestamp": INSTANT},
    ).to_arrow()
    home.ensure("facts", rows.schema).overwrite(rows)


def write_outcomes(home: Lake, labels: int = 3000, users: int = 200) -> None:
    """Labels that depend on the mood, with noise; every hundredth is not known yet."""
    mood = home.table("facts").scan().sort("user_id").collect()["mood"].to_numpy()
    rng = np.random.default_rng(4)
    user = rng.integers(0, users, labels)
    bought = (rng.random(labels) < 1 / (1 + np.exp(-3 * mood[user]))).astype(int).tolist()
    rows = pl.DataFrame(
        {
            "user_id": user,
            "event_timestamp": [START + timedelta(minutes=n) for n in range(labels)],
            "bought": [None if n % 100 == 99 else label for n, label in enumerate(bought)],
        },
        schema_overrides={"event_timestamp": INSTANT},
    ).to_arrow()
    home.ensure("outcomes", rows.schema).overwrite(rows)


@pytest.fixture
def full_lake(empty_lake: Lake) -> Lake:
    write_facts(empty_lake)
    write_outcomes(empty_lake)
    return empty_lake
