"""The verb `check leakage`: features of the training set that know the target alone."""

import json
import re
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from tests.serving.small_project import make_project, plan_of

from headrace import lake as lakes
from headrace.cli.main import main
from headrace.features.plan import encode_plan
from headrace.flows.build.pointers import Pointers, write_if_changed

MODEL = """
import feast  # as every project with features does: what leaves Feast out does not load this module
from headrace import Model, XGBoost, table
from small.events import Click

@table(reads=Click)
def labels(clicks):
    return clicks

purchase = Model("purchase", labels=labels, target="bought", features=None, trainer=XGBoost())
"""
START = datetime(2026, 1, 1, tzinfo=UTC)
BOUGHT = [int(row % 7 in (0, 3)) for row in range(400)]


@pytest.fixture
def run(tmp_path, capsys):
    """Runs the verb in a project with a model, and returns its exit code and its output."""
    settings = make_project(tmp_path / "project")
    (settings.root / "small" / "models.py").write_text(MODEL)
    write_if_changed(settings.root / Pointers.path("plans", "purchase"), encode_plan(plan_of()))

    def call(*arguments, columns=None):
        if columns is not None:
            times = pa.array([START + timedelta(hours=row) for row in range(400)], pa.timestamp("us", "UTC"))
            rows = pa.table({"event_timestamp": times, "bought": BOUGHT, **columns})
            lakes.open(settings).ensure("training_purchase", rows.schema).append(rows)
        with pytest.raises(SystemExit) as end:
            main(
                ["check", "leakage", "purchase", "--moments", "0", *arguments, "--project", str(settings.root)]
            )
        return end.value.code, "".join(capsys.readouterr())

    return call


def test_a_feature_that_knows_the_target_is_named_and_exits_with_1(run):
    prices = [None if row % 4 == 0 else float(row * 31 % 101) for row in range(400)]
    code, output = run(columns={"facts__mean_price": prices, "facts__views": [9 - 9 * y for y in BOUGHT]})
    assert code == 1
    assert re.search(r"facts__views +1.000 +100.0% +knows the target", output)
    assert re.search(r"facts__mean_price +0\.\d+ +75.0% *\n", output)
    assert "area under the ROC curve, on 400 labelled rows; bound 0.95" in output
    code, output = run("--json")
    report = json.loads(output)
    assert (code, report["task"], report["rows"]) == (1, "binary", 400)
    assert [feature["leaks"] for feature in report["features"]] == [True, False]


def test_a_higher_bound_names_less(run):
    views = [int(y == (row % 41 > 0)) for row, y in enumerate(BOUGHT)]
    columns = {"facts__mean_price": [1.0] * 400, "facts__views": views}
    assert run(columns=columns)[0] == 1
    assert run("--bound", "1")[0] == 0


@pytest.mark.parametrize("bound", ["nan", "1.5", "-0.1"])
def test_a_bound_that_is_not_a_score_is_refused(run, bound):
    code, output = run("--bound", bound)
    assert (code, f"the bound {bound} is not a score from 0 to 1" in output) == (2, True)


def test_a_model_without_a_training_set_or_with_an_old_one_says_what_to_do(run):
    code, output = run()
    assert code == 2
    assert "model 'purchase' has no training set yet" in output
    code, output = run(columns={"facts__views": [1] * 400})
    assert code == 2
    assert "the training set of model 'purchase' lacks facts__mean_price" in output
    assert "headrace build" in output
