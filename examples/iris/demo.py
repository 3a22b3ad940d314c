"""The demo of iris: a pipeline as users of DVC know it, two versions of the data, and a live label.

    headrace demo iris

Each step is a command of the command line, called in Python by the same name, or a command of git or DVC.
`headrace.Demo` times the steps and collects the checks.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl

import headrace

MODEL, TABLE = "species", "flowers"
FLOWER = {"sepal_length": 6.3, "sepal_width": 2.9, "petal_length": 5.6, "petal_width": 1.8}
BIN = Path(sys.executable).parent


def run(demo: headrace.Demo) -> None:
    """Goes from a tagged data set to a live label."""
    tag_data(demo, "v1", "the flowers as they were published on the web, with two errors")
    with demo.step("build", "from the data of v1, by logistic regression"):
        demo.build()
    check_agreement(demo, "after a build")
    commit(demo, "Build from v1")
    correct_data(demo)
    compare_versions(demo)
    change_data(demo)
    change_estimator(demo)
    check_confusion(demo)
    with demo.up():
        predict(demo)
    share(demo)


def tag_data(demo: headrace.Demo, tag: str, what: str) -> None:
    """Gives the data to DVC, and names their version by a tag of git."""
    with demo.step(f"git tag {tag}", what) as step:
        if not (demo.folder / ".git").exists():
            call(demo, "git", "init", "--quiet")
            call(demo, "dvc", "config", "--local", "--unset", "core.no_scm")  # the project was made without git
        call(demo, "dvc", "add", "--quiet", "data/iris.csv")
        commit(demo, f"Data {tag}")
        call(demo, "git", "tag", tag)
        step.rows = len(pl.read_csv(demo.folder / "data" / "iris.csv"))


def correct_data(demo: headrace.Demo) -> None:
    with demo.step("correct.py", "two flowers get the measurements of Fisher's paper"):
        call(demo, sys.executable, "correct.py")
    tag_data(demo, "v2", "the corrected flowers")


def compare_versions(demo: headrace.Demo) -> None:
    """Reads both versions from Python, and the table, which is still that of v1."""
    with demo.step("source", "both versions, read by their tags") as step:
        versions = {tag: demo.project.source("iris", revision=tag).collect() for tag in ("v1", "v2")}
        changed = versions["v1"].join(versions["v2"], on=versions["v1"].columns, how="anti")["flower"].to_list()
        step.rows = sum(map(len, versions.values()))
    demo.check("v1 and v2 differ in flowers 35 and 38 alone", changed == [35, 38])
    demo.check("the table is that of v1", rows_of_table(demo).equals(versions["v1"].sort("flower")))
    try:
        demo.project.source("iris", revision="v9")
        refusal = ""
    except headrace.HeadraceError as error:
        refusal = f"{error.what}. {error.remedy}"
    demo.check("a tag that does not exist is refused, with the tags that do", "v2, v1" in refusal)


def change_data(demo: headrace.Demo) -> None:
    """Builds from v2 by an edit of params.yaml."""
    ran = build_after_edit(demo, "data: v1", "data: v2")
    readers = [
        f"table-{TABLE}",
        *(f"{kind}-{MODEL}" for kind in ("inputs", "training_set", "train", "release")),
    ]
    demo.check("another tag reruns the stages that read the data", ran == readers)
    revisions = demo.project.training_report(MODEL).training_set.revisions
    commit_of_tag = call(demo, "git", "rev-parse", "v2^{commit}").strip()
    demo.check("the tag and its commit are logged with the run", revisions == {"iris": f"v2@{commit_of_tag}"})
    check_agreement(demo, "after another tag")
    commit(demo, "Build from v2")


def change_estimator(demo: headrace.Demo) -> None:
    """Trains another estimator by plain `dvc repro`, after an edit of params.yaml."""
    edit(demo, "estimator: logistic_regression", "estimator: svm")
    with demo.step("dvc repro", "after the estimator in params.yaml became svm"):
        printed = call(demo, "dvc", "repro")
    ran = [line.split("'")[1] for line in printed.splitlines() if line.startswith("Running stage")]
    demo.check(
        "another estimator reruns the training and the release alone",
        ran == ["code", f"train-{MODEL}", f"release-{MODEL}"],
    )
    demo.check("headrace build has nothing to do after dvc repro", demo.project.build().nothing)
    with demo.step("dvc metrics diff") as step:
        diff = json.loads(call(demo, "dvc", "metrics", "diff", "--json"))[f"metrics/{MODEL}.json"]
        shown = {name: diff[name] for name in ("macro_f1", "log_loss") if name in diff}
        step.what = ", ".join(f"{name} {part['old']:.3f} → {part['new']:.3f}" for name, part in shown.items())
    metrics = demo.project.training_report(MODEL).test.metrics
    demo.check("dvc metrics are those of the report", dvc_metrics(demo).items() >= metrics.items())
    demo.report.facts["metrics"] = metrics
    values = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
    demo.report.notes.append(f"On the held-out test rows: {values}")
    commit(demo, "Train an SVM")


def check_confusion(demo: headrace.Demo) -> None:
    """Compares DVC's confusion matrix with the true species of the test rows."""
    with demo.step("dvc plots show") as step:
        page = call(demo, "dvc", "plots", "show", "--out", ".headrace/plots").strip().splitlines()[-1]
        step.what = page
    pairs = pl.read_csv(demo.folder / "plots" / MODEL / "confusion.csv")
    report = demo.project.training_report(MODEL).test
    demo.check(
        "rows of the confusion matrix are the true species",
        pairs.height == report.rows
        and {label: len(group) for (label,), group in pairs.group_by("actual")}
        == {label.label: label.rows for label in report.classes},
    )
    right = pairs.filter(pl.col("actual") == pl.col("predicted")).height
    demo.check("its diagonal is the accuracy", right / report.rows == report.metrics["accuracy"])


def predict(demo: headrace.Demo) -> None:
    with demo.step("predict") as step:
        answer = demo.project.predict(MODEL, **FLOWER)
        share = answer["probabilities"][answer["value"]]
        step.what = f"a flower of {', '.join(map(str, FLOWER.values()))} cm: {answer['value']} ({share:.0%})"
    demo.report.facts["prediction"] = answer["id"]
    demo.report.commands.append(f"why {answer['id']}")
    demo.check("the endpoint answers with a label: virginica", answer["value"] == "virginica")


def share(demo: headrace.Demo) -> None:
    """Pushes the data and models to a remote, and takes them from there into a clone."""
    remote, clone = demo.folder / ".headrace" / "remote", demo.folder / ".headrace" / "clone"
    with demo.step("dvc push", "data, models and plots of every commit, to a folder") as step:
        call(demo, "dvc", "remote", "add", "--quiet", "--default", "shared", str(remote))
        commit(demo, "Add the remote")
        call(demo, "dvc", "push", "--quiet", "--all-commits")
        step.rows = sum(1 for file in remote.rglob("*") if file.is_file())
    with demo.step("git clone, dvc pull"):
        call(demo, "git", "clone", "--quiet", str(demo.folder), str(clone))
        call(demo, "dvc", "pull", "--quiet", folder=clone)
        status = call(demo, "dvc", "status", folder=clone)
    demo.check("in a clone, after dvc pull, dvc repro has nothing to do", "up to date" in status)


def check_agreement(demo: headrace.Demo, when: str) -> None:
    demo.check(f"{when}, a second build has nothing to do", demo.project.build().nothing)
    demo.check(f"{when}, dvc status agrees", "up to date" in call(demo, "dvc", "status"))


def build_after_edit(demo: headrace.Demo, old: str, new: str) -> list[str]:
    """Edits params.yaml and builds. Returns the names of the stages that ran."""
    edit(demo, old, new)
    with demo.step("build", f"after `{old}` in params.yaml became `{new}`"):
        return [stage.stage for stage in demo.build().stages]


def edit(demo: headrace.Demo, old: str, new: str) -> None:
    params = demo.folder / "params.yaml"
    params.write_text(params.read_text().replace(old, new, 1))


def rows_of_table(demo: headrace.Demo) -> pl.DataFrame:
    return demo.project.table(TABLE).to_polars().drop("event_timestamp").sort("flower")


def dvc_metrics(demo: headrace.Demo) -> dict[str, float]:
    shown = json.loads(call(demo, "dvc", "metrics", "show", "--json"))
    metrics: dict[str, float] = shown[""]["data"][f"metrics/{MODEL}.json"]["data"]
    return metrics


def commit(demo: headrace.Demo, message: str) -> None:
    call(demo, "git", "add", "--all")
    author = ("-c", "user.name=Headrace", "-c", "user.email=demo@example.org")
    call(demo, "git", *author, "commit", "--quiet", "--message", message)


def call(demo: headrace.Demo, *command: str, folder: Path | None = None) -> str:
    """Runs a command in the project's folder, with this Python's programs first. Returns what it prints."""
    environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "DVC_NO_ANALYTICS": "1"}
    done: Any = subprocess.run(
        command, cwd=folder or demo.folder, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr or done.stdout}")
    return str(done.stdout)
