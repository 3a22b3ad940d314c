"""A small project with a real model: bundles from the trainer, signed, and features in the online store."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa

from headrace import log, registry
from headrace.config.settings import load_settings
from headrace.features import online
from headrace.features.plan import AsOfView, EntityKey, FeaturePlan, FeatureRef, PlanField, encode_plan
from headrace.kernel.position import SnapshotPosition
from headrace.kernel.time import from_micros, now_micros
from headrace.registry.bundle import seal
from headrace.registry.signing import signing_key
from headrace.serving import release

DAY = 86_400_000_000
FACTS = AsOfView(
    name="facts",
    keys=("product_id",),
    table="facts",
    time="event_timestamp",
    features=(PlanField("mean_price", "float64"), PlanField("views", "int64")),
    ttl=7 * DAY,
)


PRICE = PlanField("price", "float64")


def plan_of(missing="model", request=(PRICE,), unavailable="refuse"):
    return FeaturePlan(
        model="purchase",
        entities=(EntityKey("user", "user_id", "int64"), EntityKey("product", "product_id", "int64")),
        views=(FACTS,),
        features=(FeatureRef("facts", "mean_price", "float64"), FeatureRef("facts", "views", "int64")),
        request=request,
        missing=missing,
        unavailable=unavailable,
        service="purchase",
    )


def fit_booster(slope: int) -> bytes:
    """Trees that predict more than .5 for a product with many views (`slope` 1) or with few (-1)."""
    import xgboost

    views = np.arange(200, dtype=np.float32)
    matrix = np.column_stack([np.zeros(200, np.float32), views])
    labels = (views > 100) if slope > 0 else (views <= 100)
    parameters = {"objective": "binary:logistic", "max_depth": 2, "nthread": 1}
    booster = xgboost.train(parameters, xgboost.DMatrix(matrix, labels.astype(float)), 5)
    return bytes(booster.save_raw("ubj"))


def put_bundle(settings, boosters, version, plan, slope=None, categories=None, classes=(), model="purchase"):
    """Writes a version's bundle to where a replica reads it, sealed with the project's key."""
    from headrace.features.values.matrix import Encoding
    from headrace.training.trainers.folder import save_model
    from headrace.training.trainers.port import ModelMeta
    from headrace.training.trainers.xgboost import MODEL

    place = registry.open(settings).bundle_folder(model, version)
    place.mkdir(parents=True)
    (place / "plan.json").write_bytes(encode_plan(plan))
    columns = tuple(feature.column for feature in plan.features)
    task = "multiclass" if classes else "binary"
    encoding = Encoding(columns, categories or {})
    meta = ModelMeta(trainer="xgboost", task=task, classes=classes, encoding=encoding)
    save_model(place / "model", {MODEL: boosters[slope or 1 + (version + 1) % 2]}, meta)
    (place / "training.json").write_text(json.dumps({}))
    seal(place, signing_key(settings))
    return place


def put_trained(settings, declared, version=1):
    """Writes a version that the trainer of the declaration fits on rows with missing values."""
    from headrace.features.values.matrix import Encoding
    from headrace.training.trainers import trainer_for
    from headrace.training.trainers.folder import save_model
    from headrace.training.trainers.port import Budget, Examples, ModelMeta, TrainingData

    random = np.random.default_rng(4)
    matrix = random.normal(size=(600, 2)).astype(np.float32) * (10, 100)
    target = (matrix[:, 0] + matrix[:, 1] / 10 + random.normal(size=600) > 0).astype(np.float32)
    matrix[::17, 1] = np.nan
    examples = Examples(matrix.astype(np.float32), target)
    encoding = Encoding(("facts__mean_price", "facts__views"))
    trainer = trainer_for(declared)
    data = trainer.prepare(TrainingData("binary", encoding, (), examples, examples))
    fitted = trainer.fit(data, declared, {}, seed=1, budget=Budget())
    place = registry.open(settings).bundle_folder("purchase", version)
    place.mkdir(parents=True)
    (place / "plan.json").write_bytes(encode_plan(plan_of()))
    meta = ModelMeta(trainer=trainer.name, encoding=encoding, parameters=dict(fitted.parameters))
    save_model(place / "model", fitted.files, meta)
    (place / "training.json").write_text("{}")
    seal(place, signing_key(settings))
    return place


def make_project_with_versions(folder):
    """A project in `folder/project` with versions 1 and 2 of model purchase and a user's features online."""
    project = make_project(folder / "project")
    put_features(project, plan_of(), {7: (9.5, 190)})
    for version in (1, 2):
        (folder / str(version)).mkdir()
        register_version(project, folder / str(version), version)
    return project


def register_version(settings, folder, version, gate="passed", slope=1):
    """Registers a version of model purchase with a real bundle, made in the folder, and gives it this gate."""
    from headrace.features.values.matrix import Encoding
    from headrace.kernel.properties import GATE
    from headrace.training.trainers.folder import save_model
    from headrace.training.trainers.port import ModelMeta
    from headrace.training.trainers.xgboost import MODEL

    (folder / "plan.json").write_bytes(encode_plan(plan_of()))
    (folder / "training.json").write_text('{"task": "binary"}')
    columns = tuple(feature.column for feature in plan_of().features)
    meta = ModelMeta(trainer="xgboost", encoding=Encoding(columns), parameters={"version": version})
    save_model(folder / "model", {MODEL: fit_booster(slope)}, meta)
    registered = registry.open(settings).register("purchase", folder, metrics={}, params={}, tags={GATE: gate})
    assert registered == version


def put_features(settings, plan, rows, view=FACTS):
    """Loads product → (mean price, views) into the online store, with the time of an hour ago."""
    store = online.open(settings)
    store.prepare(plan)
    at = pa.scalar(from_micros(now_micros() - DAY // 24), pa.timestamp("us", "UTC"))
    table = pa.table(
        {
            "product_id": pa.array(list(rows), pa.int64()),
            "event_timestamp": pa.array([at] * len(rows), pa.timestamp("us", "UTC")),
            "mean_price": pa.array([price for price, _ in rows.values()], pa.float64()),
            "views": pa.array([views for _, views in rows.values()], pa.int64()),
        }
    )
    store.load(view, table, SnapshotPosition("facts", 41))
    store.close()


def put_release(settings, *arms, model="purchase"):
    topics = log.open(settings.log.url)
    new = release.make(model, list(arms), by="test", why="because")
    release.append(topics, new)
    topics.close()
    return new


def make_project(root: Path):
    (root / "small").mkdir(parents=True)
    (root / "small" / "__init__.py").write_text("")
    (root / "small" / "events.py").write_text(
        "from datetime import datetime\nfrom headrace import Struct, event\n"
        '@event(topic="clicks", time="at")\nclass Click(Struct):\n    at: datetime\n    user_id: int\n'
    )
    (root / "headrace.toml").write_text(
        '[project]\nname = "small"\n[profile.local]\npredict_port = 0\ncollector_port = 0\nconsole_port = 0\n'
    )
    return load_settings(root)
