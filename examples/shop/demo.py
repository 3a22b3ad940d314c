"""The shop's demo: a week of events, a model of what is bought, live predictions and the way back.

    headrace demo shop

Each step is a command of the command line, called in Python by the same name. `headrace.Demo` times the steps
and collects the checks.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
from generate import roc_auc

import headrace

TOPIC, MODEL = "user_behaviour", "purchase"
EVENTS = 200_000
PREDICTIONS = 200
NEAR_BEST = 0.03  # the greatest distance of the model's ROC AUC from the best possible one
DEADLINE = 180.0  # seconds that the demo waits for the event before it fails
OVERRIDE = "the demo continues with a model that its gate refused"


def run(demo: headrace.Demo) -> None:
    """Goes from raw events to a live prediction, and back."""
    file = demo.options.data or generate_events(demo)
    send_and_ingest(demo, file)
    build(demo)
    check_warehouse(demo)
    evaluate(demo, is_generated=demo.options.data is None)
    with demo.up() as up:
        prediction = predict(demo, up.collector)
        time_predictions(demo, up.predict)
        explain(demo, prediction)


def generate_events(demo: headrace.Demo) -> Path:
    with demo.step("generate") as step:
        command = [sys.executable, "generate.py", "--events", str(demo.options.rows or EVENTS)]
        command += ["--seed", str(demo.options.seed)]
        done = subprocess.run(command, cwd=demo.folder, stdout=subprocess.PIPE, text=True, check=True)
        generated = json.loads(done.stdout)
        broken = generated["broken"]
        step.rows = generated["events"]
        step.what = f"events of a week, {sum(broken.values()):,} of them broken in {len(broken)} ways"
    return demo.folder / "data" / "events.ndjson"


def send_and_ingest(demo: headrace.Demo, file: Path) -> None:
    with demo.step("send", f"events on topic {TOPIC}") as step:
        sent = demo.project.send(TOPIC, file, shift_to_now=demo.options.data is not None)
        step.rows = sent.events
    with demo.step("ingest") as step:
        topic = demo.project.ingest(TOPIC).topics[TOPIC]
        refused = ", ".join(f"{count:,} {code}" for code, count in topic.refused.most_common())
        step.rows, step.what = topic.events, f"good {topic.good:,}; in quarantine: {refused or 'none'}"
    demo.check("every event is in the table once, good or refused", topic.events == sent.events)


def build(demo: headrace.Demo) -> None:
    with demo.step("build") as step:
        try:
            built = build_or_override(demo)
        except headrace.Refused as refused:
            if demo.stage != f"train-{MODEL}":
                raise
            # Real data of a short time: the gap of the split leaves no labels in one of its parts.
            demo.change_code("short_history", refused.what)
            built = build_or_override(demo)
        step.what = f"{len(built.stages)} stages brought up to date"
    demo.check("a second build has nothing to do", demo.project.build().nothing)


def build_or_override(demo: headrace.Demo) -> Any:
    """Builds. If the gate refuses the model, builds again and releases it by override."""
    try:
        return demo.build()
    except headrace.Refused as refused:
        if demo.stage != f"release-{MODEL}":
            raise
        demo.report.facts["refused"] = refused.what
        demo.report.notes.append(f"The gate refused the model, and it was released by override: {refused.what}")
        return demo.build(override=OVERRIDE)


def check_warehouse(demo: headrace.Demo) -> None:
    """Asks PostgreSQL for what was published, if the profile publishes the star schema."""
    address = demo.project.settings.databases.addresses.get("warehouse")
    if address is None:
        return
    import psycopg

    with demo.step("warehouse") as step, psycopg.connect(address) as connection:
        query = "select count(*), count(distinct user_key), sum(price) from shop.fact_events"
        step.rows, users, total = connection.execute(query).fetchone() or (0, 0, 0)
        best = connection.execute(
            "select department, sum(revenue) as revenue from shop.category_performance"
            " where department is not null group by 1 order by 2 desc limit 1"
        ).fetchone()
        step.what = f"facts of {users:,} users in PostgreSQL; most revenue: {best[0] if best else 'none'}"
    events = demo.project.table("clean_events").lazy().select(pl.len(), pl.col("price").sum()).collect().row(0)
    demo.check("every clean event is a fact in the warehouse", events[0] == step.rows)
    demo.check("the facts' prices are those of the events", abs(events[1] - total) <= 1e-9 * events[1])


def evaluate(demo: headrace.Demo, *, is_generated: bool) -> None:
    """Reports the champion's metrics on the held-out rows, and for generated data the best possible ROC AUC."""
    training = demo.project.training_report(MODEL)
    metrics = training.test.metrics
    demo.report.facts |= {"metrics": metrics, **training.test.baseline, "best_auc": None}
    figures = metrics | {"base rate": training.test.baseline["base_rate"]}
    if is_generated:
        best = best_auc(demo, training)
        demo.report.facts["best_auc"] = figures["best possible roc_auc"] = best
        demo.check(
            f"ROC AUC within {NEAR_BEST} of the best possible", abs(best - metrics["roc_auc"]) <= NEAR_BEST
        )
    text = ", ".join(f"{name} {value:.4f}" for name, value in figures.items())
    demo.report.notes.insert(0, f"On the held-out test rows: {text}")


def best_auc(demo: headrace.Demo, training: Any) -> float:
    """The ROC AUC of the generator's own probabilities on the test rows: no model can be better."""
    keys = ["user_id", "product_id", "event_timestamp", "event_type"]
    test = (
        demo.project.table(training.training_set.table, at=training.training_set.snapshot)
        .lazy()
        .filter(pl.col("event_timestamp") >= datetime.fromisoformat(training.boundaries["test"]))
        .select(*keys, "is_purchased")
        .collect()
    )
    truth = pl.read_parquet(demo.folder / "data" / "truth.parquet", glob=False)
    joined = test.join(truth.select(*keys, "probability"), on=keys, how="inner")
    demo.check("each test label is one that the generator made", joined.height == test.height)
    return roc_auc(joined["is_purchased"].to_numpy(), joined["probability"].to_numpy())


def predict(demo: headrace.Demo, collector_url: str) -> str:
    """Predicts before and after three more events of the customer. Returns the id of the second prediction."""
    request = last_view(demo)
    with demo.step("predict") as step:
        before = demo.project.predict(MODEL, explain=True, **request)
        step.what = f"user {request['user_id']}, product {request['product_id']}: {before['value']:.3f}"
    with demo.step("collect", "events of that user through the collector") as step:
        with demo.client(collector_url) as collector:
            step.rows = collector.post(f"/events/{TOPIC}", views_of(request, 3))["accepted"]
        collected = time.perf_counter()
    with demo.step("predict again") as step:
        after = predict_until_moved(demo, request, before["features"], events=3)
        moved_ms = (time.perf_counter() - collected) * 1000
        changed = sum(value != before["features"][name] for name, value in after["features"].items())
        step.what = f"{after['value']:.3f}: {changed} features moved in {moved_ms:.0f} ms"
    demo.report.facts["moved_ms"] = moved_ms
    demo.check("features move with new events", changed > 0)
    return str(after["id"])


def predict_until_moved(
    demo: headrace.Demo, request: dict[str, Any], before: dict[str, Any], events: int
) -> dict[str, Any]:
    """Predicts until the customer's events of the last hour have grown by `events`. Returns the prediction."""
    column = "user_activity__events_1h"
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline:
        answer = demo.project.predict(MODEL, explain=True, **request)
        if answer["features"][column] >= (before[column] or 0) + events:
            return answer
    raise TimeoutError(f"the features did not move in {DEADLINE:g} s")


def time_predictions(demo: headrace.Demo, predict_url: str) -> None:
    request = last_view(demo)
    with demo.step("predictions") as step, demo.client(predict_url) as client:
        seconds = [client.time_post(f"/predict/{MODEL}", request) for _ in range(PREDICTIONS)]
        p50_ms = statistics.median(seconds) * 1000
        step.rows, step.what = PREDICTIONS, f"p50 {p50_ms:.2f} ms over HTTP"
    demo.report.facts["p50_ms"] = p50_ms
    demo.report.notes.append(f"p50 of a prediction over HTTP: {p50_ms:.2f} ms")


def explain(demo: headrace.Demo, prediction: str) -> None:
    with demo.step("why") as step:
        why = demo.project.why(prediction)
        step.rows = sum(view.total for view in why.views)
        step.what = (
            f"prediction {prediction}: {len(why.views)} views, {step.rows} raw events; "
            f"recomputed from exactly those: {'equal' if why.equal else 'NOT equal'}"
        )
    demo.report.facts["prediction"] = prediction
    demo.report.commands.append(f"why {prediction}")
    demo.check("features recomputed from the raw events are equal", why.equal)


def last_view(demo: headrace.Demo) -> dict[str, Any]:
    """The request for the newest view: its customer and its product."""
    last = (
        demo.project.table("clean_events")
        .lazy()
        .filter(pl.col("event_type") == "view")
        .select("user_id", "product_id", "price", "event_time")
        .top_k(1, by=["event_time", "user_id"])
        .collect()
        .row(0, named=True)
    )
    return {name: last[name] for name in ("user_id", "product_id", "price")} | {"event_type": "view"}


def views_of(request: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """New events: the same customer looks at `count` products now."""
    return [
        {
            "event_time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "event_type": "view",
            "product_id": request["product_id"] + number,
            "category_id": 1,
            "price": request["price"],
            "user_id": request["user_id"],
            "user_session": f"demo-{request['user_id']}",
        }
        for number in range(count)
    ]
