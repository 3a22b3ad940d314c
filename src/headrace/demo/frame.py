"""demo: the shop in a scratch folder, from raw events to a live prediction and back.

Every step is the verb a user would call; this file strings them together, looks at what they did,
and says whether all of it held.
"""

from __future__ import annotations

import http.client
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from headrace.config.settings import Settings, load_settings
from headrace.flows.build import BuildReport, StageReport
from headrace.kernel.errors import HeadraceError, Refused, Unavailable
from headrace.kernel.time import now
from headrace.projects.running import Up

__all__ = ["Check", "DemoReport", "Step", "demo"]

TOPIC, MODEL = "user_behaviour", "purchase"
PREDICTIONS = 200
NEAR_BEST = 0.03  # how near the model's AUC comes to the best possible one
OVERRIDE = "the demo goes on with a model that its gate refused"
GAP, NO_GAP = 'gap="30m"', 'gap="0s"'
MOVED = 1.0  # seconds until an event that was sent is in the features
_DEADLINE = 60.0  # seconds that anything may take before the demo gives up on it


@dataclass(frozen=True)
class Step:
    """What one step did.

    Attributes:
        name: the verb.
        what: what it did, in words.
        rows: how many rows it made, where it makes rows.
        seconds: wall time.
    """

    name: str
    what: str
    rows: int | None
    seconds: float


@dataclass(frozen=True)
class Check:
    """Something that the demo promises, and whether it held."""

    what: str
    held: bool


@dataclass
class DemoReport:
    """The demo's summary.

    Attributes:
        folder: the scratch project.
        steps: what was done.
        checks: what was promised, and whether it held.
        metrics: the champion's metrics on the held-out test rows.
        base_rate: the share of positives among them.
        best_auc: the best possible ROC AUC on the same rows; None for real data.
        refused: what the gate said, where it refused the model.
        p50_ms: the median time of the predictions, over HTTP.
        moved_ms: from the collector's answer to a prediction with features that have moved.
        prediction: the id of the prediction that `why` explained.
        seconds: wall time of all.
    """

    folder: Path
    steps: list[Step] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    base_rate: float | None = None
    best_auc: float | None = None
    refused: str | None = None
    p50_ms: float | None = None
    moved_ms: float | None = None
    prediction: str | None = None
    seconds: float = 0.0

    @property
    def held(self) -> bool:
        """Whether everything held."""
        return all(check.held for check in self.checks)


Progress = Callable[["Step | None", str], None]
"""Is told a step when it is done; or, without one, what goes on."""


def demo(
    folder: Path,
    *,
    events: int = 200_000,
    seed: int = 7,
    data: Path | None = None,
    profile: str | None = None,
    progress: Progress,
) -> DemoReport:
    """Runs the shop end to end in `folder`, which must be empty or not there.

    Args:
        folder: the scratch project; it stays.
        events: how many events the generator makes.
        seed: of the generator.
        data: a file of real behaviour data instead, moved to end now.
        profile: of the shop, that it runs on.
        progress: is told what goes on.

    Raises:
        HeadraceError: a step failed.
    """
    return _Demo(folder, progress).run(events, seed, data, profile)


class _Demo:
    def __init__(self, folder: Path, progress: Progress) -> None:
        self.report = DemoReport(folder)
        self.stage = ""  # of the build: the last that began
        self.progress = progress

    def run(self, events: int, seed: int, data: Path | None, profile: str | None) -> DemoReport:
        begun = time.perf_counter()
        self.init()
        settings = _own_ports(load_settings(self.report.folder, profile))
        with _RayBeside(settings) as ray:
            self.events(settings, events, seed, data)
            self.ingest(settings)
            with self.step("ray", "Ray for the training, started beside the above"):
                ray.await_ready()
            self.build(settings)
            self.evaluate(settings, data is None)
            with self.live(settings) as up:
                self.predict(settings, up)
        self.report.seconds = time.perf_counter() - begun
        return self.report

    @contextmanager
    def step(self, name: str, what: str = "") -> Iterator[dict[str, Any]]:
        """Times a step; the block fills in `what` and `rows`."""
        begun = time.perf_counter()
        told: dict[str, Any] = {"what": what, "rows": None}
        self.progress(None, name)
        yield told
        step = Step(name, told["what"], told["rows"], time.perf_counter() - begun)
        self.report.steps.append(step)
        self.progress(step, "")

    def check(self, what: str, held: bool) -> None:
        self.report.checks.append(Check(what, held))

    def init(self) -> None:
        from headrace.flows.project.init import init

        with self.step("init", f"the shop's project in {self.report.folder}"):
            init(self.report.folder, example="shop")

    def events(self, settings: Settings, events: int, seed: int, data: Path | None) -> None:
        from headrace.flows.events.send import send

        file = data
        if file is None:
            with self.step("generate") as told:
                made = _generated(settings.root, events, seed)
                dirt = sum(made["broken"].values())
                told["rows"] = made["events"]
                told["what"] = f"events of a week, {dirt:,} of them broken in {len(made['broken'])} ways"
            file = settings.root / "data" / "events.ndjson"
        with self.step("send") as told:
            sent = send(settings, TOPIC, file, shift_to_now=data is not None)
            told["rows"], told["what"] = sent.events, f"events on topic {TOPIC}"

    def ingest(self, settings: Settings) -> None:
        from headrace.flows.events.ingest import ingest

        with self.step("ingest") as told:
            topic = ingest(settings, [TOPIC], until_end=True).topics[TOPIC]
            refused = ", ".join(f"{n:,} {code}" for code, n in topic.refused.most_common())
            told["rows"] = topic.events
            told["what"] = f"good {topic.good:,}; in quarantine: {refused or 'none'}"
        sent = next(step.rows for step in self.report.steps if step.name == "send")
        self.check("every event is in the table once, good or refused", topic.events == sent)

    def build(self, settings: Settings) -> None:
        from headrace.flows.build import build

        with self.step("build") as told:
            try:
                built = self.built(settings)
            except Refused as refused:
                if self.stage != f"train-{MODEL}":
                    raise
                self.closer(settings, refused)
                built = self.built(settings)
            told["what"] = f"{len(built.stages)} stages brought up to date"
        self.check("a second build has nothing to do", build(settings).nothing)

    def built(self, settings: Settings) -> BuildReport:
        """A build; where the gate refuses the model, once more with a release by override."""
        from headrace.flows.build import build

        try:
            return build(settings, progress=self.stage_told)
        except Refused as refused:
            if self.stage != f"release-{MODEL}":
                raise
            self.report.refused = refused.what
            self.progress(Step("  gate", refused.what, None, 0.0), "")
            return build(settings, override=OVERRIDE, progress=self.stage_told)

    def stage_told(self, one: StageReport) -> None:
        self.stage = one.stage
        if one.seconds is None:
            self.progress(None, f"build {one.stage}")
        else:
            step = Step(f"  {one.stage}", one.what, one.rows, one.seconds)
            self.report.steps.append(step)
            self.progress(step, "")

    def closer(self, settings: Settings, refused: Refused) -> None:
        """What a user would do with data of too short a time: take the gap between the parts away."""
        file = settings.root / "shop" / "models.py"
        text = file.read_text()
        edited = text.replace(GAP, NO_GAP)
        if edited == text:
            raise refused
        with self.step("  edit", f"{refused.what}; {file.name}: {GAP} → {NO_GAP}"):
            file.write_text(edited)

    def evaluate(self, settings: Settings, generated: bool) -> None:
        import polars as pl

        from headrace import lake, registry
        from headrace.training.evaluation import metric
        from headrace.training.job import REPORT
        from headrace.training.job import Report as Training

        versions = registry.open(settings)
        champion = versions.version(MODEL, "champion")
        text = (versions.bundle(MODEL, champion.version) / REPORT).read_bytes()
        training = msgspec.json.decode(text, type=Training)
        self.report.metrics = dict(training.test.metrics)
        self.report.base_rate = training.test.base_rate
        if not generated:
            return
        made = training.training_set
        keys = ["user_id", "product_id", "event_timestamp", "event_type"]
        test = (
            lake.open(settings)
            .table(made.table)
            .scan(made.snapshot)
            .filter(pl.col("event_timestamp") >= datetime.fromisoformat(training.test_from))
            .select(*keys, "is_purchased")
            .collect()
        )
        truth = pl.read_parquet(settings.root / "data" / "truth.parquet", glob=False).drop(
            "is_purchased", "user_session"
        )
        joined = test.join(truth, on=keys, how="inner")
        self.check("each test label is one the generator knows", joined.height == test.height)
        best = metric("roc_auc", joined["is_purchased"], joined["probability"])
        self.report.best_auc = best
        near = abs(best - self.report.metrics["roc_auc"]) <= NEAR_BEST
        self.check(f"ROC AUC within {NEAR_BEST} of the best possible", near)

    @contextmanager
    def live(self, settings: Settings) -> Iterator[Up]:
        """The project up, for the block; nothing of it runs after."""
        from headrace.runtime.up import up

        stop, told, failed = threading.Event(), threading.Event(), []
        state: list[Up] = []

        def ready(one: Up) -> None:
            state.append(one)
            told.set()

        def run() -> None:
            try:
                up(settings, ready, stop)
            except BaseException as error:
                failed.append(error)
            finally:
                told.set()

        thread = threading.Thread(target=run, name="up")
        with self.step("up") as step:
            thread.start()
            told.wait()
            if failed:
                raise failed[0]
            step["what"] = f"predict {state[0].predict}, collector {state[0].collector}"
        try:
            yield state[0]
        finally:
            with self.step("down", "everything that up started has ended"):
                stop.set()
                thread.join()
        if failed:
            raise failed[0]

    def predict(self, settings: Settings, up: Up) -> None:
        request = _request(settings)
        with _Door(up.predict) as door, _Door(up.collector) as collector:
            with self.step("predict") as told:
                first = door.post(f"/predict/{MODEL}?explain=1", request)
                told["what"] = (
                    f"user {request['user_id']}, product {request['product_id']}: {first['score']:.3f}"
                )
            with self.step("collect") as told:
                sent = _three_more(request)
                accepted = collector.post(f"/events/{TOPIC}", sent)
                answered = time.perf_counter()
                told["rows"], told["what"] = accepted["accepted"], "events of that user through the collector"
            with self.step("predict again") as told:
                moved = door.until_moved(request, first["features"], len(sent))
                self.report.moved_ms = (time.perf_counter() - answered) * 1000
                changed = [k for k, v in moved["features"].items() if v != first["features"][k]]
                told["what"] = (
                    f"{moved['score']:.3f}: {len(changed)} features moved in {self.report.moved_ms:.0f} ms"
                )
            self.check(f"features move within {MOVED:g} s", self.report.moved_ms <= MOVED * 1000)
            with self.step("predictions") as told:
                times = [door.timed(f"/predict/{MODEL}", request) for _ in range(PREDICTIONS)]
                self.report.p50_ms = statistics.median(times) * 1000
                told["rows"], told["what"] = PREDICTIONS, f"p50 {self.report.p50_ms:.2f} ms over HTTP"
        self.why(settings, moved["id"])

    def why(self, settings: Settings, prediction: str) -> None:
        from headrace.flows.trace.why import why

        with self.step("why") as told:
            found = why(settings, prediction)
            events = sum(view.total for view in found.views)
            told["rows"] = events
            told["what"] = (
                f"prediction {prediction}: {len(found.views)} views, {events} raw events; "
                f"recomputed from exactly those: {'equal' if found.equal else 'NOT equal'}"
            )
        self.report.prediction = prediction
        self.check("features recomputed from the raw events are equal", found.equal)


class _RayBeside:
    """The project's Ray while the block runs, started by a thread beside the block's first steps.

    The thread lives as long as Ray does: Ray's daemons end with the thread that started them.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._ready, self._over = threading.Event(), threading.Event()
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="ray")

    def __enter__(self) -> _RayBeside:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def await_ready(self) -> None:
        """Returns when this process is connected. Raises Unavailable as `connect` does."""
        self._ready.wait()
        if self._failed is not None:
            raise self._failed

    def _run(self) -> None:
        from headrace.cluster.connection import connect

        try:
            with connect(self._settings):
                self._ready.set()
                self._over.wait()
        except BaseException as error:
            self._failed = error
        finally:
            self._ready.set()


class _Door:
    """A door of `up`, over one connection."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=_DEADLINE)

    def __enter__(self) -> _Door:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def post(self, path: str, body: Any) -> dict[str, Any]:
        """The answer to a JSON body. Raises HeadraceError where it is no success."""
        text = json.dumps(body)
        self._connection.request("POST", path, text, {"Content-Type": "application/json"})
        response = self._connection.getresponse()
        said = response.read()
        if response.status >= 300:
            raise HeadraceError(
                f"it answered {response.status}: {said.decode(errors='replace')}", where=self._url + path
            )
        answer: dict[str, Any] = json.loads(said)
        return answer

    def timed(self, path: str, body: Any) -> float:
        """Seconds until the answer."""
        begun = time.perf_counter()
        self.post(path, body)
        return time.perf_counter() - begun

    def until_moved(self, request: dict[str, Any], before: dict[str, Any], events: int) -> dict[str, Any]:
        """The same request again and again, until the user's events of the hour have grown by `events`."""
        column = "user_activity__events_1h"
        deadline = time.monotonic() + _DEADLINE
        while time.monotonic() < deadline:
            answer = self.post(f"/predict/{MODEL}?explain=1", request)
            if answer["features"][column] >= (before[column] or 0) + events:
                return answer
        raise Unavailable(f"the features did not move in {_DEADLINE:g} s", where=self._url)


def _own_ports(settings: Settings) -> Settings:
    """The doors on free ports: the demo must not depend on what else runs here."""
    return settings.with_values(predict_port=0, collector_port=0, console_port=0)


def _generated(root: Path, events: int, seed: int) -> dict[str, Any]:
    """Runs the project's own generator, as a user would; what it printed."""
    command = [sys.executable, str(root / "generate.py"), "--events", str(events), "--seed", str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise HeadraceError(f"the generator failed:\n{done.stderr}", where=str(root / "generate.py"))
    made: dict[str, Any] = json.loads(done.stdout)
    return made


def _request(settings: Settings) -> dict[str, Any]:
    """What would be asked next: the last customer who looked at a product, and that product."""
    import polars as pl

    from headrace import lake

    last = (
        lake.open(settings)
        .table("clean_events")
        .scan()
        .filter(pl.col("event_type") == "view")
        .select("user_id", "product_id", "price", "event_time")
        .top_k(1, by=["event_time", "user_id"])
        .collect()
        .row(0, named=True)
    )
    return {**{name: last[name] for name in ("user_id", "product_id", "price")}, "event_type": "view"}


def _three_more(request: dict[str, Any]) -> list[dict[str, Any]]:
    """Three more views of the same customer, now."""
    moment = now()
    return [
        {
            "event_time": moment.isoformat(timespec="milliseconds"),
            "event_type": "view",
            "product_id": request["product_id"] + n,
            "category_id": 1,
            "price": request["price"],
            "user_id": request["user_id"],
            "user_session": f"demo-{request['user_id']}",
        }
        for n in range(3)
    ]
