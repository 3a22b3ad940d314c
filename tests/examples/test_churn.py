"""The churn example: its generator, and the messages on bad files that its README shows."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import numpy as np
import polars as pl
import pytest
from tests.lineage.conformance import make_event_check

import headrace
from headrace.config.settings import load_settings
from headrace.flows.project.init import init
from headrace.kernel.errors import CallError
from headrace.workspace import Workspace

CHURN = Path(__file__).parents[2] / "examples" / "churn"
HEADRACE = Path(sys.executable).with_name("headrace")
CUSTOMERS = 2_000


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("churn_generate", CHURN / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["churn_generate"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_the_customers_depend_on_the_seed_alone(generator: ModuleType) -> None:
    first, same, other = (generator.generate(3, CUSTOMERS, seed) for seed in (1, 1, 2))
    assert first.customers.equals(same.customers)
    assert first.truth.equals(same.truth)
    assert not first.customers.equals(other.customers)


def test_each_version_has_the_customers_and_columns_of_the_one_before(generator: ModuleType) -> None:
    versions = [generator.generate(number, CUSTOMERS).customers for number in (1, 2, 3)]
    assert [(len(rows), rows.width) for rows in versions] == [(1_600, 7), (1_800, 9), (2_000, 13)]
    for before, after in pairwise(versions):
        assert after.head(len(before)).select(before.columns).equals(before)
    contracts = [set(rows["ContractType"]) for rows in versions]
    assert contracts[1] - contracts[0] == {"Custom"}
    assert contracts[2] - contracts[1] == {"Flex"}
    assert (versions[0]["TotalCharges"] == " ").equals(versions[0]["Tenure"] == "0")


def test_the_probabilities_are_those_by_which_customers_leave(generator: ModuleType) -> None:
    """Each version's probability is calibrated: the mean outcome of a tenth is its mean probability."""
    for version in (1, 2, 3):
        truth = generator.generate(version, 60_000).truth.sort("probability")
        for tenth in range(10):
            part = truth.slice(tenth * len(truth) // 10, len(truth) // 10)
            share, mean = part["is_churned"].mean(), part["probability"].mean()
            assert share == pytest.approx(mean, abs=4 * (0.25 / len(part)) ** 0.5)


def test_the_best_auc_rises_with_the_columns(generator: ModuleType) -> None:
    from sklearn.metrics import roc_auc_score

    best = []
    for version in (1, 2, 3):
        generated = generator.generate(version, 20_000)
        known = generated.truth.filter(~pl.col("is_current"))
        assert generated.best_auc == pytest.approx(
            roc_auc_score(known["is_churned"].to_numpy(), known["probability"].to_numpy())
        )
        best.append(generated.best_auc)
    assert np.all(np.diff(best) > 0.01)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, generator: ModuleType) -> Path:
    """The project with version 1 of the file, and the table of it."""
    folder = tmp_path_factory.mktemp("churn") / "churn"
    init(folder, "churn")
    (folder / "data").mkdir()
    generator.generate(1, CUSTOMERS).customers.write_csv(folder / "data" / "customers.csv")
    headrace.project(folder).build("customers")
    return folder


def replace(old: str, new: str) -> Callable[[str], bytes]:
    return lambda text: text.replace(old, new, 1).encode()


def write_number_as_text(text: str) -> bytes:
    lines = text.splitlines()
    cells = lines[3].split(",")
    lines[3] = ",".join([*cells[:5], "n.a.", *cells[6:]])
    return "\n".join(lines).encode()


def repeat_customer(text: str) -> bytes:
    """Adds a row that says the contrary of the first customer who has left."""
    row = next(line for line in text.splitlines() if line.endswith(",Yes"))
    return (text + row.removesuffix("Yes") + "No\n").encode()


BAD_FILES: dict[str, Callable[[str], bytes]] = {
    "A column is missing, or has another name": replace("TotalCharges", "Total_Charges"),
    "The file is empty": lambda _: b"",
    "The file has a header and nothing else": lambda text: text.splitlines()[0].encode(),
    "The file has another encoding": lambda text: text.replace("One year", "Één jaar", 1).encode("latin-1"),
    "A number is written as text": write_number_as_text,
    "Yes or No is written in another way": replace(",Yes\n", ",yes\n"),
    "The target has one class": lambda text: re.sub(r",Yes$", ",No", text, flags=re.MULTILINE).encode(),
    "A customer is in the file twice": repeat_customer,
}
UNLEARNABLE = ("The target has one class", "A customer is in the file twice")


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_is_refused_as_the_readme_shows(built: Path, case: str) -> None:
    readme = (CHURN / "README.md").read_text()
    match = re.search(rf"\*\*{re.escape(case)}:\*\*\n\n```\n(.*?)```", readme, re.DOTALL)
    assert match is not None
    file = built / "data" / "customers.csv"
    good = file.read_text()
    file.write_bytes(BAD_FILES[case](good))
    target = "churn" if case in UNLEARNABLE else "customers"
    command = [HEADRACE, "build", target, "--project", built]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    file.write_text(good)
    assert refused.returncode != 0
    assert refused.stderr.replace(f"{built}/", "") == match[1]
    project = headrace.project(built)
    if case in UNLEARNABLE:
        with pytest.raises(CallError, match="churn"):
            project.training_report("churn")
        project.build("customers")  # for the next case
    assert len(project.table("customers").to_polars()) == len(good.splitlines()) - 1


def test_a_failed_training_is_closed_in_the_lineage(built: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(built, tmp_path / "churn")
    models = folder / "churn" / "models.py"
    models.write_text(models.read_text().replace("n_estimators=200", "n_estimators=-5"))
    with Workspace(load_settings(folder)) as workspace:  # other tests' builds of the project may have failed
        earlier = {run.id for run in workspace.lineage.runs(limit=1_000)}
    command = [HEADRACE, "build", "churn", "--project", folder]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert refused.returncode != 0
    assert "RandomForestClassifier cannot be fitted: The 'n_estimators' parameter" in refused.stderr
    check = make_event_check()
    with Workspace(load_settings(folder)) as workspace:
        all_runs = [run for run in workspace.lineage.runs(limit=1_000) if run.job != "build"]
        assert {run.outcome for run in all_runs} == {"COMPLETE", "FAIL"}
        runs = {run.job: run for run in all_runs if run.id not in earlier}
        failed = {job for job, run in runs.items() if run.outcome == "FAIL"}
        assert failed == {"stage train-churn", "train churn", "fit churn"}
        events = workspace.lineage.events(runs["train churn"].id)
        for event in events:
            check(event)
        assert [event["eventType"] for event in events] == ["START", "FAIL"]
        assert "'n_estimators'" in events[-1]["run"]["facets"]["errorMessage"]["message"]
        assert [data["name"] for data in events[-1]["inputs"]] == ["table/training_churn"]


def test_every_bad_file_of_the_readme_is_tested() -> None:
    readme = (CHURN / "README.md").read_text().partition("## When it goes wrong")[2]
    assert re.findall(r"^\*\*(.*):\*\*$", readme, re.MULTILINE) == list(BAD_FILES)
