"""The demo of sales: three files of weekly sales, and a live forecast of the week that begins.

    headrace demo sales
    headrace demo sales --data FOLDER    # train.csv, features.csv and stores.csv of the public data set

Each step is a command of the command line, called in Python by the same name. `headrace.Demo` times the steps
and collects the checks.
"""

from __future__ import annotations

import importlib.util
import json
import re
import statistics
import subprocess
import sys
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
from generate import wape

import headrace

MODEL, NETWORK = "sales", "sales_network"
FILES = ("train.csv", "features.csv", "stores.csv")
PREDICT = f"/v1/models/{MODEL}:predict"
UNKNOWN_STORE = 9_999
PREDICTIONS = 200
NEAR_FLOOR = 1.15  # the largest WAPE of the better model, as a multiple of the best possible one
BELOW_NAIVE = 0.20  # how much lower than that of the seasonal naive forecast it must be
FEWEST_ROWS = 100_000  # from fewer, no model learns enough to keep these bounds
FOLDS = 3
OVERRIDE = "the demo continues with a model that its gate refused"
DAY = re.compile(rb"\b\d{4}-\d{2}-\d{2}\b")


def run(demo: headrace.Demo) -> None:
    """Goes from the files to live forecasts."""
    if demo.options.data is None:
        generate_files(demo)
    else:
        copy_files(demo, demo.options.data)
    start = time.perf_counter()
    build(demo)
    with demo.up() as up:
        forecast(demo, up.predict, start)
        time_predictions(demo, up.predict)
        explain(demo)
    evaluate(demo, [MODEL, *add_network(demo)])
    check_nothing_to_do(demo)


def generate_files(demo: headrace.Demo) -> None:
    with demo.step("generate") as step:
        command = [sys.executable, "generate.py", "--seed", str(demo.options.seed)]
        command += [] if demo.options.rows is None else ["--rows", str(demo.options.rows)]
        done = subprocess.run(command, cwd=demo.folder, stdout=subprocess.PIPE, text=True, check=True)
        generated = json.loads(done.stdout)
        step.rows, step.what = generated["rows"], "weekly sales in data/, with their true expectation"


def copy_files(demo: headrace.Demo, folder: Path) -> None:
    """Copies the files byte by byte, except that all dates move by whole weeks, so that the sales end now."""
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise headrace.HeadraceError(
            f"there is no {' and no '.join(missing)}",
            where=str(folder),
            remedy=f"Name the folder that has {', '.join(FILES)}: headrace demo sales --data FOLDER",
        )
    with demo.step("copy") as step:
        days = set(DAY.findall((folder / FILES[0]).read_bytes()))
        if not days:
            raise headrace.HeadraceError(
                "no date is written as 2012-10-26",
                where=str(folder / FILES[0]),
                remedy="Write dates in ISO 8601.",
            )
        last = max(date.fromisoformat(day.decode()) for day in days)
        yesterday = datetime.now(UTC).date() - timedelta(days=1)
        weeks = (yesterday - last).days // 7
        (demo.folder / "data").mkdir()
        for name in FILES:
            moved = DAY.sub(lambda day: move(day[0], weeks), (folder / name).read_bytes())
            (demo.folder / "data" / name).write_bytes(moved)
        step.what = f"{', '.join(FILES)} of {folder}, all dates {weeks} weeks later"


def move(day: bytes, weeks: int) -> bytes:
    return str(date.fromisoformat(day.decode()) + timedelta(weeks=weeks)).encode()


def build(demo: headrace.Demo) -> None:
    """Builds the project. The gate may refuse any model of other data, and of generated data the network, which
    learns little from a few stores."""
    refusable = {f"release-{NETWORK}"} | (set() if demo.options.data is None else {f"release-{MODEL}"})
    with demo.step("build") as step:
        try:
            built = demo.build()
        except headrace.Refused as refused:
            if demo.stage not in refusable:
                raise
            demo.report.notes.append(f"The gate refused the model, and it was released by override: {refused}")
            built = demo.build(override=OVERRIDE)
        step.what = f"{len(built.stages)} stages brought up to date"


def forecast(demo: headrace.Demo, url: str, start: float) -> None:
    """Asks for the forecasts of some departments by KServe's protocol, and checks them."""
    keys = some_departments(demo)
    unknown = {"store": UNKNOWN_STORE, "dept": keys[0]["dept"]}
    with demo.step("forecast") as step, demo.client(url) as client:
        values = client.post(PREDICT, {"instances": keys})["predictions"]
        seconds = time.perf_counter() - start
        step.rows = len(values)
        first = f"store {keys[0]['store']}, department {keys[0]['dept']}: {values[0]:,.0f}"
        step.what = f"sales of the week that begins, the largest departments; {first}"
        backwards = client.post(PREDICT, {"instances": keys[::-1]})["predictions"]
        alone = [client.post(PREDICT, {"instances": [key]})["predictions"][0] for key in keys]
        answer = client.post(PREDICT, {"instances": [keys[0], unknown]})["predictions"]
        missing = demo.project.predict(MODEL, **unknown)["missing"]
    demo.report.facts["live_seconds"] = seconds
    demo.report.notes.append(f"From raw rows to the first forecast: {seconds:.1f} s")
    demo.check("forecasts come in the order asked", values == backwards[::-1] == alone)
    demo.check(
        "an unknown store is answered by the declared policy, missing='model'",
        answer[0] == values[0] and isinstance(answer[1], float) and "history__lag_1" in missing,
    )


def some_departments(demo: headrace.Demo, count: int = 20) -> list[dict[str, int]]:
    """The keys of the departments that sold most in the last week."""
    sales = demo.project.table("weekly_sales").lazy()
    last = sales.filter(pl.col("week") == pl.col("week").max())
    return last.top_k(count, by=["sales", "store", "dept"]).select("store", "dept").collect().to_dicts()


def time_predictions(demo: headrace.Demo, url: str) -> None:
    key = some_departments(demo, 1)[0]
    with demo.step("predictions") as step, demo.client(url) as client:
        seconds = [client.time_post(PREDICT, {"instances": [key]}) for _ in range(PREDICTIONS)]
        p50_ms = statistics.median(seconds) * 1000
        step.rows, step.what = PREDICTIONS, f"p50 {p50_ms:.2f} ms over HTTP"
    demo.report.facts["p50_ms"] = p50_ms
    demo.report.notes.append(f"p50 of a forecast over HTTP: {p50_ms:.2f} ms")


def explain(demo: headrace.Demo) -> None:
    prediction = demo.project.predict(MODEL, **some_departments(demo, 1)[0])["id"]
    with demo.step("why") as step:
        why = demo.project.why(prediction)
        step.what = (
            f"forecast {prediction}: recomputed from the tables: {'equal' if why.equal else 'NOT equal'}"
        )
    demo.report.facts["prediction"] = prediction
    demo.report.commands.append(f"why {prediction}")
    demo.check("features recomputed from the tables are equal", why.equal)


def add_network(demo: headrace.Demo) -> list[str]:
    """Adds the neural network and builds it, if PyTorch is installed. Returns the names of the added models."""
    if importlib.util.find_spec("torch") is None:
        demo.report.notes.append(
            "The neural network was left out: PyTorch is not installed (pip install 'headrace[torch]')"
        )
        return []
    demo.change_code("torch", "the same forecast by a neural network")
    build(demo)
    return [NETWORK]


def evaluate(demo: headrace.Demo, models: list[str]) -> None:
    """Compares the models on the test rows with the seasonal naive forecast, and with the best possible one."""
    reports = {model: demo.project.training_report(model) for model in models}
    for model, report in reports.items():
        metrics = ", ".join(f"{name} {value:,.4g}" for name, value in report.test.metrics.items())
        demo.report.notes.append(f"{model} on the held-out test rows: {metrics}")
        folds = "; ".join(
            f"from {fold.test_from[:10]} {fold.metrics['wape']:.4f} (naive {fold.baseline['wape']:.4f})"
            for fold in report.folds
        )
        demo.report.notes.append(f"  wape of each fold: {folds}")
    best = min(models, key=lambda model: reports[model].test.metrics["wape"])
    better = reports[best].test.metrics["wape"]
    naive = reports[best].baseline["wape"]
    demo.report.facts |= {
        "metrics": {model: report.test.metrics for model, report in reports.items()},
        "naive_wape": naive,
        "noise_floor": None,
    }
    demo.check(f"each model has {FOLDS} folds", all(len(report.folds) == FOLDS for report in reports.values()))
    if demo.options.data is not None:
        return
    demo.report.facts["noise_floor"] = floor = noise_floor(demo, reports[best])
    demo.report.notes.append(f"The best possible wape, that of the true expectation: {floor:.4f}")
    if reports[best].training_set.rows < FEWEST_ROWS:
        demo.report.notes.append(f"Fewer than {FEWEST_ROWS:,} rows: no model is judged by its wape")
        return
    demo.check(
        f"wape at least {BELOW_NAIVE:.0%} below the seasonal naive forecast's",
        better <= (1 - BELOW_NAIVE) * naive,
    )
    demo.check(f"wape within {NEAR_FLOOR} times the best possible", better <= NEAR_FLOOR * floor)


def noise_floor(demo: headrace.Demo, report: Any) -> float:
    """The wape of the true expectation on the test rows: no model can be better."""
    keys = ["store", "dept", "week"]
    sales = demo.project.table("weekly_sales", at=report.training_set.inputs["weekly_sales"]).lazy()
    test = sales.filter(
        pl.col("event_timestamp") >= datetime.fromisoformat(report.boundaries["test"])
    ).collect()
    truth = pl.read_parquet(demo.folder / "data" / "truth.parquet", glob=False)
    joined = test.join(truth.rename({"Store": "store", "Dept": "dept", "Date": "week"}), on=keys)
    demo.check("each test row is one that the generator made", joined.height == test.height == report.test.rows)
    return wape(joined["sales"].to_numpy(), joined["expected"].to_numpy())


def check_nothing_to_do(demo: headrace.Demo) -> None:
    demo.check("a second build has nothing to do", demo.project.build().nothing)
