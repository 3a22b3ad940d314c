"""Metrics: by model, version and arm, in the format that Prometheus' own client reads."""

from __future__ import annotations

from contextlib import closing
from errno import ENOSPC
from random import Random

import pyarrow as pa
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.serving.running import INSTANCE, run_endpoint
from tests.serving.small_project import DAY, make_project, plan_of, put_bundle, put_features, put_release

from headrace import log
from headrace.features import online
from headrace.features.online import RowPosition, StreamPosition
from headrace.features.online.lookup import ViewRead
from headrace.features.plan import AggregateFunction, Aggregation, FeatureRef, PlanField, WindowedView
from headrace.kernel.files import write_file
from headrace.kernel.position import LogPosition
from headrace.serving import metrics_slot
from headrace.serving.metrics import Metrics, to_text
from headrace.serving.metrics_slot import MetricsSlot, clear_metrics
from headrace.serving.models import Models
from headrace.serving.release import Arm

HOUR = 3_600_000_000  # microseconds


def samples_of(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def labels(**values: str) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(values.items()))


def test_each_arm_has_its_counts_in_prometheus_format() -> None:
    metrics, arm = Metrics(), {"model": 'a "b"\\', "version": "3", "arm": "champion"}
    at = 100 * DAY
    positions = [{"facts": RowPosition(41, at - HOUR // 2), "clicks": StreamPosition({0: 7})}, {}]
    champion = metrics.arm('a "b"\\', 3, "champion")
    champion.count(0.004, 0.0015, [["x", "y"], ["x"]])
    champion.views.count(at, {"facts": ViewRead(4, 3, 0.25, 99)}, positions)
    champion.count(0.5, None, [[]])
    champion.views.count(at, {"facts": ViewRead(2, 1, 0.5, 1)}, [{"facts": RowPosition(41, None)}])
    metrics.arm('a "b"\\', 3, "champion").count_errors("feature_failed", 2)
    metrics.arm('a "b"\\', 4, "canary").count_errors("internal", 1)
    metrics.behind = {("purchase", 3, "clicks"): 12}

    samples = samples_of(to_text(metrics.counts, metrics.behind).decode())

    assert samples["headrace_predictions_total", labels(**arm)] == 3
    assert samples["headrace_prediction_errors_total", labels(**arm, code="feature_failed")] == 2
    assert samples["headrace_missing_features_total", labels(**arm, feature="x")] == 2
    assert samples["headrace_missing_features_total", labels(**arm, feature="y")] == 1
    assert samples["headrace_prediction_seconds_count", labels(**arm)] == 2
    assert samples["headrace_prediction_seconds_sum", labels(**arm)] == 0.504
    assert samples["headrace_prediction_seconds_bucket", labels(**arm, le="0.002")] == 0
    assert samples["headrace_prediction_seconds_bucket", labels(**arm, le="0.005")] == 1
    assert samples["headrace_lookup_seconds_count", labels(**arm)] == 1
    assert samples["headrace_feature_age_seconds_count", labels(**arm, view="facts")] == 1
    assert samples["headrace_feature_age_seconds_sum", labels(**arm, view="facts")] == 1800
    assert samples["headrace_feature_age_seconds_bucket", labels(**arm, view="facts", le="600.0")] == 0
    assert samples["headrace_feature_age_seconds_bucket", labels(**arm, view="facts", le="3600.0")] == 1
    facts = labels(**arm, view="facts")
    assert samples["headrace_view_values_total", facts] == 6
    assert samples["headrace_view_missing_values_total", facts] == 4
    assert samples["headrace_view_seconds_total", facts] == 0.75
    assert samples["headrace_view_bytes_total", facts] == 100
    assert samples["headrace_view_events_behind", labels(model="purchase", version="3", view="clicks")] == 12
    canary = arm | {"version": "4", "arm": "canary"}
    assert samples["headrace_prediction_errors_total", labels(**canary, code="internal")] == 1
    assert samples["headrace_predictions_total", labels(**canary)] == 0


def test_an_endpoint_counts_by_version_and_arm(tmp_path, boosters):
    settings, plan = make_project(tmp_path / "p"), plan_of(missing="refuse")
    put_bundle(settings, boosters, 1, plan)
    put_bundle(settings, boosters, 2, plan)
    put_features(settings, plan, {7: (9.5, 190)})
    put_release(settings, Arm(1, 0.5), Arm(2, 0.5, name="canary"))
    users = range(40)
    with run_endpoint(settings) as client:
        given = {u: client.post("/predict/purchase", json=INSTANCE | {"user_id": u}).json() for u in users}
        bodies = [INSTANCE | {"product_id": 404}]
        for first, last in (("champion", "canary"), ("canary", "champion")):  # no arm answered these
            good, bad = (next(u for u in users if given[u]["arm"] == arm) for arm in (first, last))
            pair = [INSTANCE | {"user_id": good}, INSTANCE | {"user_id": bad, "product_id": 404}]
            bodies.append({"instances": pair})
        refused = [client.post("/predict/purchase", json=body).status_code for body in bodies]
        samples = samples_of(client.get("/metrics").text)
    assert refused == [422, 422, 422]
    for version, arm in (("1", "champion"), ("2", "canary")):
        names = {"model": "purchase", "version": version, "arm": arm}
        number = sum(body["arm"] == arm for body in given.values())
        assert number > 5
        assert samples["headrace_predictions_total", labels(**names)] == number
        for histogram in ("prediction_seconds", "lookup_seconds"):
            assert samples[f"headrace_{histogram}_count", labels(**names)] == number
        ages = {**names, "view": "facts"}  # the rows are an hour old
        assert samples["headrace_feature_age_seconds_count", labels(**ages)] == number
        assert 3_600 * number <= samples["headrace_feature_age_seconds_sum", labels(**ages)] < 3_700 * number
    errors = [count for (name, _), count in samples.items() if name == "headrace_prediction_errors_total"]
    assert sum(errors) == 3


def test_a_windowed_view_says_how_many_events_it_is_behind(tmp_path, boosters):
    settings, count = make_project(tmp_path / "p"), AggregateFunction("count")
    aggregation = Aggregation("clicks", "user_id", count, DAY, HOUR, "int64")
    fields = (PlanField("user_id", "int64"),)
    clicks = WindowedView("recent", ("user_id",), "clicks", "clicks", None, "at", fields, (aggregation,))
    few = plan_of()
    plan = type(few)(
        model="purchase",
        entities=few.entities,
        views=(*few.views, clicks),
        features=(few.features[0], FeatureRef("recent", "clicks", "int64")),  # two, as the model has
        request=few.request,
    )
    put_bundle(settings, boosters, 1, plan)
    put_features(settings, plan, {7: (9.5, 190)})
    with closing(log.open(settings.log.url)) as topics, closing(online.open(settings)) as store:
        topics.create("clicks")
        topics.append("clicks", [b"{}"] * 5)
        rows = pa.table({"user_id": pa.array([], pa.int64()), "at": pa.array([], pa.timestamp("us", "UTC"))})
        store.fill(clicks, rows, LogPosition("clicks", topics.identity("clicks"), {0: 2}))
    put_release(settings, Arm(1))
    with closing(Models(settings)) as models:
        assert models.failed == {}
        assert models.count_events_behind() == {("purchase", 1, "recent"): 3}


def count_one_request(metrics: Metrics, view: str) -> None:
    """A prediction of .004 s with a row of a view that is 5 s old, and a feature that is missing."""
    arm, at = metrics.arm("purchase", 1, "champion"), 100 * DAY
    arm.count(0.004, 0.001, [["x"]])
    positions = [{view: RowPosition(41, at - 5_000_000)}]
    arm.views.count(at, {view: ViewRead(values=3, missing=1, seconds=0.25, bytes=100)}, positions)
    metrics.service("basket", "purchase", 1).count(at, {}, positions)
    metrics.count_feature_answer(404, 0.001)
    metrics.arm("purchase", 1, "champion").count_errors("internal", 2)
    metrics.count_answer(200, 0.005)
    metrics.count_failed_shadow()


def test_a_scrape_of_any_replica_has_the_sum_of_all(tmp_path) -> None:
    slots = [MetricsSlot(tmp_path) for _ in range(3)]
    replicas = [Metrics(slot.counts) for slot in slots]
    for requests, metrics in enumerate(replicas, start=1):
        for _ in range(requests):
            count_one_request(metrics, view=f"view{requests % 2}")
    replicas[2].arm("purchase", 2, "canary").count(0.3, None, [[], []])
    for slot, metrics in zip(slots, replicas, strict=True):
        slot.write(metrics.counts)
    names = {"model": "purchase", "version": "1", "arm": "champion"}
    for slot, metrics in zip(slots, replicas, strict=True):
        samples = samples_of(to_text(slot.sum(metrics.counts), {}).decode())
        assert samples["headrace_predictions_total", labels(**names)] == 1 + 2 + 3
        assert samples["headrace_prediction_errors_total", labels(**names, code="internal")] == 2 * (1 + 2 + 3)
        assert samples["headrace_missing_features_total", labels(**names, feature="x")] == 1 + 2 + 3
        assert samples["headrace_prediction_seconds_bucket", labels(**names, le="0.005")] == 1 + 2 + 3
        assert round(samples["headrace_lookup_seconds_sum", labels(**names)], 6) == 0.006
        assert samples["headrace_feature_age_seconds_count", labels(**names, view="view0")] == 2
        assert samples["headrace_feature_age_seconds_count", labels(**names, view="view1")] == 1 + 3
        of_view = labels(**names, view="view1")
        assert samples["headrace_view_values_total", of_view] == 3 * (1 + 3)
        assert samples["headrace_view_missing_values_total", of_view] == 1 + 3
        assert samples["headrace_view_seconds_total", of_view] == 0.25 * (1 + 3)
        assert samples["headrace_view_bytes_total", of_view] == 100 * (1 + 3)
        service = {"service": "basket", "model": "purchase", "version": "1", "view": "view1"}
        assert samples["headrace_feature_age_seconds_count", labels(**service)] == 1 + 3
        assert samples["headrace_features_answers_total", labels(status="404")] == 1 + 2 + 3
        assert samples["headrace_features_seconds_count", ()] == 1 + 2 + 3
        assert samples["headrace_predict_answers_total", labels(status="200")] == 1 + 2 + 3
        assert samples["headrace_predict_seconds_count", ()] == 1 + 2 + 3
        assert samples["headrace_failed_shadows_total", ()] == 1 + 2 + 3
        canary = {"model": "purchase", "version": "2", "arm": "canary"}
        assert samples["headrace_predictions_total", labels(**canary)] == 2
        assert metrics.counts.failed_shadows < 1 + 2 + 3  # what is its own stays its own
    for slot, metrics in zip(slots, replicas, strict=True):
        slot.close(metrics.counts)


def test_a_replica_counts_on_where_the_one_before_in_its_slot_ended(tmp_path) -> None:
    first, second = MetricsSlot(tmp_path), MetricsSlot(tmp_path)
    killed, other = Metrics(first.counts), Metrics(second.counts)
    count_one_request(killed, "facts")
    count_one_request(other, "facts")
    second.write(other.counts)
    assert first.sum(killed.counts).failed_shadows == 2
    first._lock.close()  # as the kernel does when a process is killed
    third = MetricsSlot(tmp_path)
    new = Metrics(third.counts)
    assert third.sum(new.counts).failed_shadows == second.sum(other.counts).failed_shadows == 2
    count_one_request(new, "facts")
    assert third.sum(new.counts).failed_shadows == second.sum(other.counts).failed_shadows == 3
    third.close(new.counts)
    second.close(other.counts)
    clear_metrics(tmp_path)
    last = MetricsSlot(tmp_path)
    assert last.counts.failed_shadows == 0
    last.close(last.counts)


def list_counters(slot: MetricsSlot, metrics: Metrics) -> dict[object, float]:
    return samples_of(to_text(slot.sum(metrics.counts), {}).decode())


def assert_none_falls(before: dict[object, float], after: dict[object, float]) -> None:
    fallen = {name: (value, after.get(name)) for name, value in before.items() if value > after.get(name, -1)}
    assert fallen == {}


@pytest.mark.parametrize("seed", range(20))
def test_no_counter_falls_while_replicas_end_die_and_start(tmp_path, seed: int) -> None:
    draw = Random(seed)
    replicas: list[tuple[MetricsSlot, Metrics]] = []
    last: dict[object, float] = {}
    counted = 0
    unwritten: dict[MetricsSlot, int] = {}
    for _ in range(300):
        step = draw.choice(["count", "count", "count", "scrape", "scrape", "write", "start", "end", "kill"])
        if step == "start" or not replicas:
            slot = MetricsSlot(tmp_path)
            replicas.append((slot, Metrics(slot.counts)))
            unwritten[slot] = 0
        slot, metrics = draw.choice(replicas)
        if step == "count":
            arm = metrics.arm("purchase", draw.randrange(3), draw.choice(["champion", "canary"]))
            arm.count(draw.random(), draw.random(), [["x"]])
            arm.views.count(0, {"facts": ViewRead(2, 1, draw.random() / 3, 7)}, [])
            metrics.count_answer(200, draw.random() / 7)
            counted, unwritten[slot] = counted + 1, unwritten[slot] + 1
        if step in ("write", "scrape", "end"):
            unwritten[slot] = 0
        if step == "write":
            slot.write(metrics.counts)
        if step == "scrape":
            scraped = list_counters(slot, metrics)
            assert_none_falls(last, scraped)
            last = scraped
            assert scraped.get(("headrace_predict_seconds_count", ()), 0) == counted - sum(unwritten.values())
        if step in ("end", "kill"):
            if step == "end":
                slot.close(metrics.counts)
            slot._lock.close()  # as the kernel does when a process is killed
            counted -= unwritten.pop(slot)
            replicas.remove((slot, metrics))
            if step == "end":  # a request that was still in progress
                slot.write(metrics.counts)
    for slot, metrics in replicas:
        slot.close(metrics.counts)


def test_a_request_that_is_counted_during_a_scrape_is_not_taken_back(tmp_path, monkeypatch) -> None:
    first, second = MetricsSlot(tmp_path), MetricsSlot(tmp_path)
    busy, other = Metrics(first.counts), Metrics(second.counts)
    count_one_request(busy, "facts")

    def write_and_count(path, content, **options) -> None:
        write_file(path, content, **options)
        count_one_request(busy, "facts")

    monkeypatch.setattr(metrics_slot, "write_file", write_and_count)
    scraped = list_counters(first, busy)
    monkeypatch.undo()
    assert_none_falls(scraped, list_counters(second, other))
    monkeypatch.setattr(metrics_slot, "write_file", fail_to_write)
    count_one_request(busy, "facts")
    scraped = list_counters(first, busy)
    monkeypatch.undo()
    assert_none_falls(scraped, list_counters(second, other))
    for slot, metrics in ((first, busy), (second, other)):
        slot.close(metrics.counts)


def fail_to_write(*_: object, **__: object) -> None:
    raise OSError(ENOSPC, "No space left on device")


def test_a_file_that_a_crash_of_the_machine_left_empty_counts_nothing(tmp_path) -> None:
    (tmp_path / "1.json").touch()
    (tmp_path / "7.json").write_text('{"arms": [')
    slot = MetricsSlot(tmp_path)
    assert slot.sum(slot.counts).failed_shadows == 0
    slot.close(slot.counts)
