"""Logged predictions are read a part at a time: each once, the newest alone."""

import json
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import polars as pl
import pytest

from headrace import lake as lakes
from headrace.config.settings import make_settings
from headrace.features.plan import EntityKey, FeaturePlan, encode_plan
from headrace.flows.trace.served import read_served
from headrace.serving.prediction import TABLE
from headrace.training.files import PLAN

START = datetime(2026, 1, 1, tzinfo=UTC)
ROWS = 40


@pytest.fixture
def workspace(tmp_path):
    """Two versions in turn; each moment has two predictions of a version."""
    lake = lakes.open(make_settings(tmp_path, "shop", state=tmp_path / "state"))
    rows = pl.DataFrame(
        {
            "id": [f"p{n:02}" for n in range(ROWS)],
            "model": ["m"] * ROWS,
            "version": [1 + n % 2 for n in range(ROWS)],
            "at": [START + timedelta(seconds=n // 4) for n in range(ROWS)],
            "entity": [json.dumps({"user": n}) for n in range(ROWS)],
            "request": ["{}"] * ROWS,
            "features": ["{}"] * ROWS,
            "positions": ["{}"] * ROWS,
            "plan": ["1"] * ROWS,
            "error": pl.Series([None] * ROWS, dtype=pl.String),
            "_valid": [n != 39 for n in range(ROWS)],
        },
        schema_overrides={"at": pl.Datetime("us", "UTC"), "version": pl.Int64},
    ).to_arrow()
    lake.ensure(TABLE, rows.schema).append(rows)
    (tmp_path / PLAN).write_bytes(encode_plan(FeaturePlan("m", (EntityKey("user", "user", "int64"),), (), ())))
    return SimpleNamespace(lake=lake, registry=SimpleNamespace(bundle=lambda name, version: tmp_path))


@pytest.mark.parametrize("limit", [1, 9, 20, 1_000])
@pytest.mark.parametrize("together", [1, 3, 8, None])
def test_each_of_the_newest_predictions_comes_once(workspace, limit, together):
    parts = list(read_served(workspace, None, limit, together=together))
    ids = [prediction.id for _, _, served in parts for prediction in served]
    assert len(ids) == len(set(ids)) == min(limit, ROWS - 1)
    moments = {prediction.id: prediction.at for _, _, served in parts for prediction in served}
    oldest = sorted((n // 4 for n in range(ROWS - 1)), reverse=True)[: len(ids)][-1]
    assert min(moments.values()) >= int((START + timedelta(seconds=oldest)).timestamp() * 1e6)
    names = [name for name, _, _ in parts]
    assert names == sorted(names)
    if together is None:
        assert len(names) == len(set(names))
    else:
        assert max(len(served) for _, _, served in parts) <= together + 1
