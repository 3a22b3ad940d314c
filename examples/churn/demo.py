"""The churn demo: three versions of a file, three versions of a model, and which of them is right in the end.

    headrace demo churn
    headrace demo churn --data telco.csv

Each step is a command of the command line, called in Python by the same name. `headrace.Demo` times the steps
and collects the checks.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import polars as pl
from generate import CUSTOMERS, Generated, generate

import headrace

MODEL, TABLE, TOPIC = "churn", "customers", "churn_outcomes"
VERSIONS = {1: "random forest", 2: "gradient boosting", 3: "logistic regression"}
NEAR_BEST = 0.03  # the greatest distance of a version's ROC AUC from the best possible one
ASKED = 400  # customers whom predictions are asked for
DEADLINE = 180.0  # seconds that the demo waits for predictions or outcomes before it fails
TELCO = {
    1: ["customerID", "tenure", "Contract", "MonthlyCharges", "TotalCharges"],
    2: ["PhoneService", "InternetService"],
}
"""Version → the columns of the real file that it adds. Version 3 has all of them."""
TELCO_CURRENT = 10  # every tenth real customer counts as current: the file hides whether they left
T = TypeVar("T")


def run(demo: headrace.Demo) -> None:
    """Goes from three versions of a file to the version of the model that is right most often."""
    outcomes: dict[str, bool] = {}
    first = pl.DataFrame()
    for version, trainer in VERSIONS.items():
        best, outcomes = write_file(demo, version)
        if version > 1:
            demo.change_code(f"v{version}", f"the new columns become features; {trainer}")
        build(demo, version, trainer, best)
        if version == 1:
            first = demo.project.table(TABLE, at="v1").to_polars()
    compare_versions(demo, first)
    customers = sorted(outcomes)[:ASKED]
    with demo.up() as up:
        predict_side_by_side(demo, up.predict, customers)
        divide_traffic(demo, up.predict, customers)
        learn_outcomes(demo, up.collector, {name: outcomes[name] for name in customers})
        promote_and_roll_back(demo, up.predict, customers)
    trace_lineage(demo)


def write_file(demo: headrace.Demo, version: int) -> tuple[float | None, dict[str, bool]]:
    """Writes a version of data/customers.csv.

    Returns:
        The best ROC AUC that a model of its columns can reach (None for real data), and for each customer whose
        outcome the file does not tell, whether the customer left in the end.
    """
    path = demo.folder / "data" / "customers.csv"
    path.parent.mkdir(exist_ok=True)
    if demo.options.data is not None:
        if version == 1:
            demo.change_code("telco", "the columns of the real file by this project's names")
        with demo.step(f"export v{version}") as step:
            file, outcomes = take_columns(demo.options.data, version)
            file.write_csv(path)
            step.rows, step.what = len(file), f"customers with {file.width} columns"
        return None, outcomes
    with demo.step(f"generate v{version}") as step:
        generated: Generated = generate(version, demo.options.rows or CUSTOMERS, demo.options.seed)
        generated.customers.write_csv(path)
        step.rows, step.what = len(generated.customers), f"customers with {generated.customers.width} columns"
    current = generated.truth.filter("is_current")
    return generated.best_auc, dict(current.select("CustomerId", "is_churned").iter_rows())


def take_columns(data: Path, version: int) -> tuple[pl.DataFrame, dict[str, bool]]:
    """The version's columns of the real file as text, without the outcome of every tenth customer."""
    rows = read_telco(data)
    current = pl.Series([number % TELCO_CURRENT == 0 for number in range(len(rows))])
    outcomes = {
        name: value == "Yes" for name, value in rows.filter(current).select("customerID", "Churn").rows()
    }
    shown = [name for number, names in TELCO.items() if number <= version for name in names]
    columns = rows.columns if version == 3 else [*shown, "Churn"]
    return rows.with_columns(Churn=pl.when(~current).then("Churn")).select(columns), outcomes


def read_telco(data: Path) -> pl.DataFrame:
    """The real file, each column as text.

    Raises:
        HeadraceError: it is not a CSV file with the columns of the Telco customer churn.
    """
    try:
        rows = pl.read_csv(data, infer_schema=False, glob=False)
    except (pl.exceptions.PolarsError, OSError) as error:
        problem = str(error).partition("\n")[0]
    else:
        needed = [*TELCO[1], *TELCO[2], "PaymentMethod", "Churn"]
        missing = [name for name in needed if name not in rows.columns]
        if not missing:
            return rows
        problem = f"it lacks the columns {', '.join(missing)}"
    raise headrace.HeadraceError(
        f"the file is not the Telco customer churn: {problem}",
        where=str(data),
        remedy="The demo takes IBM's CSV of 7,043 customers. For another file, see the README: Step by step.",
    )


def build(demo: headrace.Demo, version: int, trainer: str, best: float | None) -> None:
    with demo.step(f"build v{version}") as step:
        built = demo.build()
        step.what = f"{len(built.stages)} stages brought up to date: {trainer}"
    with demo.step(f"tag-table {TABLE} v{version}") as step:
        tagged = demo.project.tag_table(TABLE, f"v{version}")
        step.what = f"snapshot {tagged.snapshot}"
    report = demo.project.training_report(MODEL, version)
    demo.check(
        f"version {version} is bound to {TABLE} v{version}",
        report.training_set.inputs[TABLE] == tagged.snapshot,
    )
    auc = report.test.metrics["roc_auc"]
    text = f"Version {version}, {trainer}: ROC AUC {auc:.4f} on the test rows"
    demo.report.facts[f"v{version}"] = {"roc_auc": auc, "best_auc": best}
    if best is not None:
        text += f"; the best that its columns allow: {best:.4f}"
        demo.check(f"version {version}'s ROC AUC within {NEAR_BEST} of the best", abs(best - auc) <= NEAR_BEST)
    demo.report.notes.append(text)


def compare_versions(demo: headrace.Demo, first: pl.DataFrame) -> None:
    """Prints how the versions of the table differ, and checks that the first is read as it was."""
    frames = {version: demo.project.table(TABLE, at=f"v{version}").to_polars() for version in VERSIONS}
    for version, frame in frames.items():
        new = (
            [] if version == 1 else [name for name in frame.columns if name not in frames[version - 1].columns]
        )
        with demo.step(f"table {TABLE} v{version}") as step:
            step.rows = len(frame)
            step.what = "; ".join([f"new: {', '.join(new)}"] * bool(new) + [describe(frame)])
    again = frames[1].select(first.columns)
    demo.check(
        "reading v1 after v3 gives v1's rows exactly",
        frames[1].columns == first.columns and again.sort("CustomerId").equals(first.sort("CustomerId")),
    )
    unbilled = frames[1]["TotalCharges"].null_count()
    demo.report.facts["unbilled"] = unbilled
    demo.check(
        f"TotalCharges is a number, and null for the {unbilled} customers of the first month",
        frames[1].schema["TotalCharges"] == pl.Float64
        and unbilled == len(frames[1].filter(pl.col("Tenure") == 0)),
    )


def describe(frame: pl.DataFrame) -> str:
    """The distributions of a version in a line."""
    contracts = frame["ContractType"].value_counts(sort=True, normalize=True, name="share")
    shares = ", ".join(f"{kind} {share:.0%}" for kind, share in contracts.iter_rows())
    return f"left {frame['Churned'].mean():.1%}; charges {frame['MonthlyCharges'].mean():.2f} a month; {shares}"


def ask(demo: headrace.Demo, url: str, customers: list[str]) -> list[dict[str, Any]]:
    """One prediction for each customer, in their order."""
    with demo.client(url) as client:
        body = {"instances": [{"CustomerId": name} for name in customers]}
        predictions: list[dict[str, Any]] = client.post(f"/predict/{MODEL}", body)["predictions"]
    return predictions


def predict_side_by_side(demo: headrace.Demo, url: str, customers: list[str]) -> None:
    """Asks version 1 and, as its shadow, version 2 for the same customers."""
    demo.project.release(MODEL, "champion=1", "shadow=2", why="compare version 2 with version 1")
    with demo.step("predict v1 and v2") as step:
        answered = [prediction["id"] for prediction in ask(demo, url, customers)]
        rows = wait_for(lambda: find_pairs(demo, answered))
        step.rows = len(rows)
        step.what = f"customers by both; for example {spell_pairs(rows.head(3))}"
    demo.check("version 1 and version 2 predicted the same customers", len(rows) == len(customers))
    difference = (rows["v1"] - rows["v2"]).abs().mean()
    demo.report.notes.append(
        f"For the same customers version 1 and version 2 differ by {difference:.3f} on average"
    )


def find_pairs(demo: headrace.Demo, answered: list[str]) -> pl.DataFrame | None:
    """entity, v1 and v2 of the predictions with these ids, once all of them and their shadows are ingested."""
    rows = find_predictions(demo)
    if rows is None:
        return None
    of_v1 = rows.filter(pl.col("id").is_in(answered)).select("id", "entity", v1="value")
    pairs = of_v1.join(rows.select("shadow_of", v2="value"), left_on="id", right_on="shadow_of")
    return pairs if len(pairs) == len(answered) else None


def spell_pairs(rows: pl.DataFrame) -> str:
    return ", ".join(f"{v1:.2f} and {v2:.2f}" for v1, v2 in rows.select("v1", "v2").iter_rows())


def divide_traffic(demo: headrace.Demo, url: str, customers: list[str]) -> None:
    """Gives half of the customers to version 2, and checks that each customer keeps the version."""
    demo.project.release(MODEL, "champion=1", "challenger=2:0.5", why="which version is right more often?")
    with demo.step("A/B") as step:
        first, second = (
            {name: answer["version"] for name, answer in zip(customers, ask(demo, url, customers), strict=True)}
            for _ in range(2)
        )
        of_challenger = sum(version == 2 for version in first.values())
        step.rows = 2 * len(customers)
        step.what = (
            f"predictions; {of_challenger} of {len(customers)} customers by version 2, the others by version 1"
        )
    demo.check("each customer is always answered by the same version", first == second)
    share = of_challenger / len(customers)
    demo.check("half of the customers are answered by each version", abs(share - 0.5) <= 0.1)


def learn_outcomes(demo: headrace.Demo, collector_url: str, outcomes: dict[str, bool]) -> None:
    """Sends what the customers decided, and compares the versions by it."""
    with demo.step("collect outcomes") as step, demo.client(collector_url) as collector:
        at = datetime.now(UTC).isoformat(timespec="microseconds")
        events = [{"CustomerId": name, "decided_at": at, "is_churned": left} for name, left in outcomes.items()]
        step.rows = collector.post(f"/events/{TOPIC}", events)["accepted"]
        step.what = f"customers decided, {sum(outcomes.values())} of them left"
    predicted = 4 * len(outcomes)  # by version 1 and its shadow, and twice in the A/B
    with demo.step("outcomes") as step:
        report = wait_for(lambda: find_report(demo, predicted))
        arms = report.arms[-2:]  # of the last release
        step.rows = len(report.rows)
        step.what = "predictions; in the A/B " + ", ".join(
            f"{arm.arm} version {arm.version}: accuracy {arm.metrics['accuracy']:.3f} of {arm.known:,}"
            for arm in arms
        )
    truth = pl.Series([outcomes[json.loads(text)["CustomerId"]] for text in report.rows["entity"]])
    demo.check("every prediction has the outcome of its customer", truth.equals(report.rows["outcome"]))
    for arm in arms:
        demo.report.facts.setdefault("accuracy", {})[arm.version] = arm.metrics["accuracy"]
        demo.report.notes.append(
            f"In truth version {arm.version} was right in {arm.metrics['accuracy']:.1%} of {arm.known:,} cases"
        )
    demo.check(
        "both arms have outcomes", {arm.version for arm in arms if arm.known == arm.predictions} == {1, 2}
    )


def find_report(demo: headrace.Demo, predicted: int) -> Any:
    """The model's outcomes, once all predictions are ingested and each has its outcome."""
    report = demo.project.outcomes(MODEL)
    return report if len(report.rows) == predicted and not report.rows["outcome"].null_count() else None


def find_predictions(demo: headrace.Demo) -> pl.DataFrame | None:
    """The ingested predictions; None while there are none."""
    try:
        return (
            demo.project.table("headrace_predictions")
            .to_polars()
            .with_columns(pl.col("value").cast(pl.Float64))
        )
    except headrace.HeadraceError:
        return None


def promote_and_roll_back(demo: headrace.Demo, url: str, customers: list[str]) -> None:
    with demo.step("release champion=2") as step:
        demo.project.release(MODEL, "champion=2", why="it is right more often")
        versions = {answer["version"] for answer in ask(demo, url, customers)}
        step.what = f"the challenger is champion: all {len(customers)} customers by version {versions}"
    demo.check("the challenger answers every customer", versions == {2})
    with demo.step("rollback") as step:
        back = demo.project.rollback(MODEL, why="to show the way back")
        versions = {answer["version"] for answer in ask(demo, url, customers)}
        step.what = ", ".join(f"{arm.name} version {arm.version}, {arm.weight:.0%}" for arm in back.arms)
    demo.check("after the rollback both versions answer again", versions == {1, 2})


def trace_lineage(demo: headrace.Demo) -> None:
    """Prints the way from the endpoint back to the file, and checks that every run has ended."""
    with demo.step("lineage") as step:
        ways = [spell_way(demo, version) for version in VERSIONS]
        endpoint = demo.project.lineage(MODEL)
        step.rows = sum(1 for _ in endpoint.walk())
        step.what = f"datasets from the endpoint of {len(endpoint.beyond)} versions back to the file"
    demo.report.notes += [f"Version {version}: {way}" for version, way in zip(VERSIONS, ways, strict=True)]
    kinds = {node.dataset.kind for node in endpoint.walk()}
    demo.check("lineage leads from the endpoint to the file", {"endpoint", "model", "table", "file"} <= kinds)
    runs = demo.project.runs(limit=10_000)
    trainings = [run for run in runs if run.job == f"train {MODEL}"]
    described = [all({"metrics", "params"} <= model.facts.keys() for model in run.outputs) for run in trainings]
    demo.check("each training has its metrics and parameters", described == [True] * len(VERSIONS))
    demo.report.facts["runs"] = len(runs)
    demo.check(f"all {len(runs)} runs are closed", all(run.outcome == "COMPLETE" for run in runs))


def spell_way(demo: headrace.Demo, version: int) -> str:
    """The way from the file to a version: what each run made of what."""
    tags = {
        row.snapshot: tag for row in demo.project.table_versions(TABLE) for tag in row.tags if len(tag) == 2
    }
    names = []
    for node in demo.project.lineage(f"{MODEL}@{version}").walk():
        dataset = node.dataset
        snapshot = getattr(dataset.position, "snapshot_id", None)
        name = f"{dataset.name} {tags[snapshot]}" if snapshot in tags else dataset.name
        if dataset.kind == "model" and node.run is not None and node.run.job == f"train {MODEL}":
            facts = node.run.facts
            name = f"{node.run.job} ({facts['params']['estimator']}, ROC AUC {facts['metrics']['roc_auc']:.4f})"
        names += [] if node.repeated or name in names else [name]
    return " → ".join(reversed(names))


def wait_for(find: Callable[[], T | None]) -> T:
    """Returns the first answer of `find` that is not None."""
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline:
        answer = find()
        if answer is not None:
            return answer
        time.sleep(0.2)
    raise TimeoutError(f"what the demo waited for did not come within {DEADLINE:g} s")
