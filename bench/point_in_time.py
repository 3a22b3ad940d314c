"""The point-in-time join of 602,316 labels with as many rows of six features, against raw Polars.

Arrow to Arrow. The peer is `join_asof` with the two sorts it needs; it loses the order of the rows.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import numpy as np
import polars as pl
import pyarrow as pa

from headrace.features.offline.point_in_time import join
from headrace.features.plan import AsOfView, EntityKey, FeaturePlan, FeatureRef, PlanField

DAY = 86_400_000_000
START = 1_700_000_000_000_000
FEATURES = tuple(PlanField(f"f{i}", "float64") for i in range(6))


def generate(rows: int) -> tuple[pa.Table, pa.Table]:
    """Unsorted labels and facts of 50,000 entities over a month."""
    draw = np.random.default_rng(7)

    def make_rows() -> pl.DataFrame:
        at = pl.Series(START + draw.integers(0, 30 * DAY, rows)).cast(pl.Datetime("us", "UTC"))
        return pl.DataFrame({"entity": draw.integers(0, 50_000, rows), "event_timestamp": at})

    facts = make_rows().with_columns(pl.Series(field.name, draw.random(rows)) for field in FEATURES)
    return make_rows().to_arrow(), facts.to_arrow()


def measure(work: Callable[[], object]) -> tuple[float, float]:
    """The seconds and the seconds of CPU of a call."""
    begin, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - begin, time.process_time() - cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object a line (always the case)")
    parser.add_argument("--rows", type=int, default=602_316)
    options = parser.parse_args()
    labels, facts = generate(options.rows)
    view = AsOfView("facts", ("entity",), "facts", "event_timestamp", FEATURES, 7 * DAY)
    features = tuple(FeatureRef("facts", field.name, field.dtype) for field in FEATURES)
    plan = FeaturePlan("m", (EntityKey("entity", "entity", "int64"),), (view,), features)

    def ours() -> pa.Table:
        return join(labels, plan, lambda _: pl.DataFrame(facts).lazy()).to_arrow()

    def peer() -> pa.Table:
        left = pl.DataFrame(labels).sort("event_timestamp")
        right = pl.DataFrame(facts).sort("event_timestamp")
        return left.join_asof(
            right, on="event_timestamp", by="entity", tolerance="7d", check_sortedness=False
        ).to_arrow()

    keys = ["entity", "event_timestamp", *(field.name for field in FEATURES)]
    result = pl.DataFrame(ours()).rename(lambda name: name.removeprefix("facts__"))
    assert result.select(keys).sort(keys).equals(pl.DataFrame(peer()).select(keys).sort(keys))
    rounds = [(measure(ours), measure(peer)) for _ in range(7)]
    work = f"point-in-time join: {options.rows:,} x {options.rows:,}, 6 features, Arrow to Arrow"
    for index, unit in enumerate(("s", "s of CPU")):
        seconds, raw = (min(figures[index] for figures in side) for side in zip(*rounds, strict=True))
        figure = {"work": work, "ours": seconds, "unit": unit, "peer": raw, "ratio": seconds / raw}
        print(json.dumps(figure))


if __name__ == "__main__":
    main()
