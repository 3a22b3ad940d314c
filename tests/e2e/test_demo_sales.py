"""The demo of the sales as a new user runs it: on generated files, and on files like the public ones."""

from __future__ import annotations

import importlib.util
import subprocess
from datetime import date, timedelta
from pathlib import Path

import polars as pl
import pytest
from tests.e2e.demos import (
    EXAMPLES,
    HEADRACE,
    DemoRun,
    await_processes,
    call_dvc,
    check_readme,
    follow_readme,
    plots_of,
    run_demo,
)
from tests.examples.example import load_script

import headrace

README = EXAMPLES / "sales" / "README.md"
STORES, DEPARTMENTS = 3, 12
LAST = date(2012, 10, 26)  # the public sales end here


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> DemoRun:
    """A fifth of the rows."""
    return run_demo("sales", tmp_path_factory.mktemp("demo") / "sales", "--rows", "115830")


def test_demo_runs_every_step_and_check(demo: DemoRun) -> None:
    steps = {step["name"].strip(): step for step in demo.report["steps"]}
    assert {"init", "generate", "build", "up", "forecast", "predictions", "why", "down"} <= set(steps)
    assert steps["table-weekly_sales"]["rows"] == steps["training_set-sales"]["rows"] == 115_830
    assert len(demo.report["checks"]) == 8
    await_processes(demo.folder)


def test_the_better_model_is_near_the_best_possible_and_far_below_seasonal_naive(demo: DemoRun) -> None:
    facts = demo.report["facts"]
    best = min(metrics["wape"] for metrics in facts["metrics"].values())
    assert facts["noise_floor"] < best <= 1.15 * facts["noise_floor"]
    assert best <= 0.8 * facts["naive_wape"]
    for metrics in facts["metrics"].values():
        assert set(metrics) >= {"mae", "rmse", "wape", "r2"}


def test_each_training_row_has_the_lags_of_its_own_week(demo: DemoRun) -> None:
    """The lags by joins of the files' rows, not by the tables."""
    rows = headrace.project(demo.folder).training_set("sales").to_polars()
    sales = pl.read_csv(demo.folder / "data" / "train.csv", try_parse_dates=True).select(
        store="Store", dept="Dept", week="Date", value="Weekly_Sales"
    )
    rows = rows.with_columns(week=pl.col("event_timestamp").dt.date() + timedelta(days=6))
    for weeks in (1, 2, 4, 8, 52):
        later = sales.with_columns(pl.col("week") + timedelta(weeks=weeks))
        joined = rows.join(later, on=["store", "dept", "week"], how="left", maintain_order="left")
        assert joined["value"].equals(joined[f"history__lag_{weeks}"].alias("value"))
        assert joined["value"].count() == 810 * (143 - weeks)


def test_served_features_equal_those_of_training(demo: DemoRun) -> None:
    parity = [HEADRACE, "check", "parity", "--json", "--project", demo.folder]
    assert subprocess.run(parity, capture_output=True, text=True, check=False).returncode == 0


def test_dvc_shows_the_metrics_and_plots(demo: DemoRun) -> None:
    test = headrace.project(demo.folder).training_report("sales").test
    shown = call_dvc(demo.folder, "metrics", "show")[""]["data"]["metrics/sales.json"]["data"]
    assert shown.items() >= {**test.metrics, "test_rows": test.rows}.items()
    across, up, points = plots_of(demo.folder)["plots/sales/quantiles.csv"]
    assert (across, up) == ("target", "prediction")
    assert points == test.quantiles
    latest = pl.read_csv(demo.folder / "data" / "train.csv", try_parse_dates=True)
    weeks = latest["Date"].unique().sort().tail(13)  # the last fold predicts them
    sold = latest.filter(pl.col("Date").is_in(weeks.to_list()))["Weekly_Sales"]
    assert (points[0][0], points[-1][0]) == (sold.min(), sold.max())


def test_readme_shows_what_is_printed(demo: DemoRun) -> None:
    assert check_readme(demo, README) == 4


def test_each_command_of_the_readme_succeeds(demo: DemoRun) -> None:
    """In the demo's project: the commands that make the project and its files are the demo's own steps, and
    the test above runs those whose output is shown."""
    replaced = dict.fromkeys(["headrace init sales --example sales", "cd sales", "python generate.py"], "true")
    if importlib.util.find_spec("torch") is None:  # the demo leaves the network out, too
        replaced["cp -r variants/torch/sales ."] = "true"
    follow_readme(README, demo.folder, replaced, shown=False)


@pytest.fixture(scope="module")
def public_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files with what the public ones have: CR line ends, `NA`, returns, missing weeks, no region."""
    folder = tmp_path_factory.mktemp("public") / "files"
    generator = load_script("sales", "generate")
    generator.write(generator.generate(STORES, 5, LAST), folder)
    (folder / "truth.parquet").unlink()
    train = pl.read_csv(folder / "train.csv").filter(pl.col("Dept") <= DEPARTMENTS)
    late, closed = (pl.col("Dept") == 3) & (pl.col("Date") < "2011-06-01"), pl.col("Dept") == 4
    kept = train.filter(~late & ~(closed & (pl.col("Date") > "2012-01-01"))).sample(fraction=0.95, seed=1)
    sold = pl.when(pl.col("Dept") == 5).then(pl.col("Weekly_Sales") * -0.01).otherwise("Weekly_Sales").round(2)
    holiday = pl.when("IsHoliday").then(pl.lit("TRUE")).otherwise(pl.lit("FALSE"))
    shuffled = kept.with_columns(Weekly_Sales=sold, IsHoliday=holiday).sort("Store", "Dept", "Date")
    shuffled.write_csv(folder / "train.csv")
    pl.read_csv(folder / "stores.csv").drop("Region").write_csv(folder / "stores.csv")
    for file in folder.iterdir():
        file.write_bytes(file.read_bytes().replace(b"\n", b"\r"))
    return folder


@pytest.fixture(scope="module")
def public(public_files: Path, tmp_path_factory: pytest.TempPathFactory) -> DemoRun:
    return run_demo("sales", tmp_path_factory.mktemp("public") / "sales", "--data", str(public_files))


def test_files_of_the_public_data_set_are_read(public: DemoRun, public_files: Path) -> None:
    opened = headrace.project(public.folder)
    rows = opened.table("weekly_sales").to_polars()
    lines = (public_files / "train.csv").read_text().replace("\r", "\n").splitlines()[1:]
    given = sorted(tuple(line.split(",")[:4]) for line in lines)
    last, today = rows["week"].max(), date.today()
    assert isinstance(last, date)
    assert timedelta(0) < today - last <= timedelta(days=8)
    moved = last - LAST
    assert moved.days % 7 == 0
    read = [
        (str(r["store"]), str(r["dept"]), str(r["week"] - moved), r["sales"])
        for r in rows.iter_rows(named=True)
    ]
    assert sorted(read) == [(store, dept, week, float(sales)) for store, dept, week, sales in given]
    assert (rows["sales"] < 0).sum() > 100
    weeks = opened.table("store_weeks").to_polars()
    assert weeks.height == STORES * 182
    assert weeks["markdown"].null_count() >= STORES * 92
    latest = weeks["event_timestamp"].max()
    assert latest is not None
    assert latest.date() > last + timedelta(weeks=38)  # type: ignore[union-attr]
    assert opened.table("stores").to_polars()["region"].null_count() == STORES


def test_missing_weeks_have_no_lag(public: DemoRun) -> None:
    rows = headrace.project(public.folder).training_set("sales").to_polars()
    rows = rows.with_columns(week=pl.col("event_timestamp").dt.date() + timedelta(days=6))
    later = rows.select("store", "dept", value="sales", week=pl.col("week") + timedelta(weeks=1))
    joined = rows.join(later, on=["store", "dept", "week"], how="left", maintain_order="left")
    assert joined["value"].null_count() > 100
    assert joined["value"].equals(joined["history__lag_1"].alias("value"))
