"""The whole build of the shop, killed at each step: later builds continue it to the same result."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tarfile
from collections import defaultdict
from contextlib import closing
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal
from tests.command_line import call_headrace
from tests.lineage.conformance import make_event_check

from headrace import lake, lineage, registry
from headrace import log as logs
from headrace.config.settings import Settings, load_settings
from headrace.features import online
from headrace.features.applied.registry import is_registry_as_applied
from headrace.flows.project.status import status
from headrace.lineage.graph import downstream, upstream
from headrace.serving import release
from headrace.workspace import Workspace

SHOP = Path(__file__).parents[2] / "examples" / "shop"
TABLES = ("clean_events", "departments", "product_facts", "view_outcomes", "training_purchase")
BEFORE_TRAINING = (
    "lake.after_commit:1",  # of a table; the other points of tables: test_build
    "feast.apply.begin:1",
    "feast.apply.registry:1",
    "online.fill.written:1",
    "online.load.written:1",
    "lake.after_commit:1",  # of the training set
)
AFTER_TRAINING = (
    "build.before_record:1",
    "registry.before_files:1",
    "registry.before_version:1",
    "registry.after_version:1",
    "registry.before_place:1",
    "build.before_record:1",
)
GRAPH: dict[str, tuple[set[str], set[str]]] = {
    "send.user_behaviour": ({"file/data/events.ndjson"}, {"topic/user_behaviour"}),
    "ingest.user_behaviour": ({"topic/user_behaviour"}, {"table/user_behaviour"}),
    "audit.clean_events": ({"table/clean_events"}, set()),
    "audit.departments": ({"table/departments"}, set()),
    "audit.product_facts": ({"table/product_facts"}, set()),
    "audit.view_outcomes": ({"table/view_outcomes"}, set()),
    "table.clean_events": ({"table/user_behaviour"}, {"table/clean_events"}),
    "table.departments": ({"file/data/departments.csv"}, {"table/departments"}),
    "table.product_facts": ({"table/clean_events", "table/departments"}, {"table/product_facts"}),
    "table.view_outcomes": ({"table/clean_events"}, {"table/view_outcomes"}),
    "training_set.purchase": (
        {"table/clean_events", "table/product_facts", "table/view_outcomes"},
        {"table/training_purchase"},
    ),
    "train.purchase": ({"table/training_purchase"}, {"bundle/purchase"}),
    "train.purchase.split": (set(), set()),
    "train.purchase.tuning": (set(), set()),
    "train.purchase.fit": (set(), set()),
    "train.purchase.evaluation": (set(), set()),
    "register.purchase": ({"bundle/purchase", "table/training_purchase"}, {"model/purchase"}),
    "release.purchase": ({"model/purchase"}, {"endpoint/purchase"}),
}
"""Job → the datasets that it reads, and those that it writes. Each dataset has one producer, and one path leads
from the file to the endpoint. The jobs without data are steps of the training, and name it as their parent."""

SECRETS = {
    "HEADRACE_TOKEN": "tok-5f1e77aa90",
    "HEADRACE_KAFKA_PASSWORD": "kafka-81c0ffee",
    "HEADRACE_SIGNING_KEY": "sign-0ddba11000",
}
PASSWORD = "pg-decafbad42"
MLFLOW = f"postgresql://anna:{PASSWORD}@127.0.0.1:9/mlflow"
PROD = f'\n[profile.prod]\nmlflow = "{MLFLOW}"\n'


def call(root: Path, *arguments: str, fault: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **SECRETS, **({"HEADRACE_FAULT": fault} if fault else {})}
    return call_headrace(*arguments, folder=root, environment=environment)


def succeed(root: Path, *arguments: str) -> str:
    out = call(root, *arguments)
    assert out.returncode == 0, out.stderr
    return out.stdout + out.stderr


@pytest.fixture(scope="module")
def plain_shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shop with a week of ingested events, nothing built, and a model that trains quickly."""
    root = tmp_path_factory.mktemp("whole") / "plain_shop"
    shutil.copytree(SHOP, root, ignore=shutil.ignore_patterns(".headrace", "__pycache__", "*.ndjson"))
    models = root / "shop" / "models.py"
    text = models.read_text()
    for old, new in (
        ("n_trials=12", "n_trials=1"),
        ('"binary:logistic")', '"binary:logistic", num_boost_round=20)'),
        ('at_least("roc_auc", 0.7)', 'at_least("roc_auc", 0.5)'),
    ):
        assert old in text
        text = text.replace(old, new)
    models.write_text(text)
    with (root / "headrace.toml").open("a") as file:
        file.write(PROD)
    subprocess.run(
        [sys.executable, "generate.py", "--events", "6000", "--seed", "3"],
        cwd=root,
        check=True,
        capture_output=True,
        timeout=300,
    )
    succeed(root, "send", "user_behaviour", "data/events.ndjson")
    succeed(root, "ingest", "--until-end")
    return root


@pytest.fixture(scope="module")
def shop_after_kills(plain_shop: Path) -> Settings:
    """A copy of the shop, killed at each point in turn and then built completely. Builds plain_shop up to its
    training set, for comparison."""
    root = plain_shop.with_name("interrupted")
    shutil.copytree(plain_shop, root)  # a copy is an independent project
    for point in BEFORE_TRAINING:
        out = call(root, "build", "training_set-purchase", "online", fault=point)
        assert out.returncode == -signal.SIGKILL, f"{point} was never reached: {out.stdout}{out.stderr}"
    succeed(root, "build", "training_set-purchase", "online")
    succeed(plain_shop, "build", "training_set-purchase", "online")
    for point in AFTER_TRAINING:
        out = call(root, "build", fault=point)
        assert out.returncode == -signal.SIGKILL, f"{point} was never reached: {out.stdout}{out.stderr}"
    succeed(root, "build")
    assert "Nothing to do" in succeed(root, "build")
    return load_settings(root)


def rows(settings: Settings, name: str) -> pl.DataFrame:
    frame = lake.open(settings).table(name).scan().drop("_arrived_at", strict=False).collect()
    return frame.sort([name for name, kind in frame.schema.items() if not kind.is_nested()])


@pytest.mark.parametrize("name", TABLES)
def test_every_table_is_written_once_with_the_same_rows(
    shop_after_kills: Settings, plain_shop: Path, name: str
) -> None:
    # The order in which a mean adds its values is not fixed.
    assert_frame_equal(rows(shop_after_kills, name), rows(load_settings(plain_shop), name), rel_tol=1e-12)
    assert len(lake.open(shop_after_kills).table(name).snapshots()) == 1


def test_other_users_cannot_enter_the_state_folder(shop_after_kills: Settings) -> None:
    folders = [
        shop_after_kills.state.parent,
        shop_after_kills.state,
        *(path for path in shop_after_kills.state.iterdir() if path.is_dir()),
    ]
    assert {"bundles", "feast", "lake", "log", "mlflow", "release", "training"} <= {
        folder.name for folder in folders
    }
    assert {
        folder.name: oct(folder.stat().st_mode) for folder in folders if folder.stat().st_mode & 0o077
    } == {}
    # Files of DVC and git belong to the project and have the modes of the user's umask.
    assert (shop_after_kills.root / "dvc.yaml").stat().st_mode & 0o044 == 0o044
    assert (shop_after_kills.root / "models").stat().st_mode & 0o055 == 0o055


def test_there_is_one_version_and_one_release(
    shop_after_kills: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_SIGNING_KEY", SECRETS["HEADRACE_SIGNING_KEY"])
    store = registry.open(shop_after_kills)
    (version,) = store.versions("purchase")
    assert version.aliases == ("champion",)
    store.bundle("purchase", 1)  # checks every file of the bundle
    log = logs.open(shop_after_kills.log.url)
    (record,) = release.history(log, "purchase")
    log.close()
    assert release.champion_version(record) == 1
    runs = store.client.search_runs([store.experiment])
    files = [training_run for training_run in runs if training_run.info.run_name == "version of purchase"]
    assert len(files) == 1


def test_a_training_shows_in_mlflow_under_its_build(shop_after_kills: Settings) -> None:
    store = registry.open(shop_after_kills)
    runs = store.client.search_runs([store.experiment])
    names = {training_run.info.run_id: training_run.info.run_name for training_run in runs}
    parents = {}
    for training_run in runs:
        parent = training_run.data.tags.get("mlflow.parentRunId", "")
        parents[training_run.info.run_name] = names.get(parent)
    assert parents["version of purchase"] == "train purchase"
    assert parents["train purchase"] == "build"
    assert {"tuning purchase", "fit purchase", "trial 1"} <= set(parents)


def test_the_online_state_is_the_same(shop_after_kills: Settings, plain_shop: Path) -> None:
    ends = []
    for settings in (shop_after_kills, load_settings(plain_shop)):
        store = online.open(settings)
        ends.append({view.name: (view.digest, store.position(view) is None) for view in store.views()})
        store.close()
    assert ends[0] == ends[1]
    assert not any(empty for _, empty in ends[0].values())


def test_a_build_restores_what_feasts_teardown_removed(plain_shop: Path) -> None:
    succeed(plain_shop, "build", "online")
    settings = load_settings(plain_shop)
    program = f"import feast; feast.FeatureStore(repo_path={str(settings.place('feast'))!r}).teardown()"
    subprocess.run([sys.executable, "-c", program], cwd=plain_shop, check=True, timeout=300)
    assert not is_registry_as_applied(settings)
    output = succeed(plain_shop, "build", "online")
    assert {"features", "online"} <= set(output.split())
    assert is_registry_as_applied(settings)
    with closing(online.open(settings)) as store:
        assert [view for view in store.views() if store.position(view) is None] == []
        assert {view.name for view in store.views()} == {"user_activity", "product_facts"}
    assert "online" not in succeed(plain_shop, "build", "online").split()


def test_a_build_fills_an_online_store_that_was_deleted(plain_shop: Path) -> None:
    succeed(plain_shop, "build")
    assert "Nothing to do" in succeed(plain_shop, "build")
    settings = load_settings(plain_shop)
    for file in settings.state.glob("online.db*"):
        file.unlink()
    with Workspace(settings) as workspace:
        stale = {stage.stage: stage.reasons for stage in status(workspace, load_features=False).stale}
    names = ("user_activity", "product_facts")
    reasons = tuple(("state", f"the online store has no values of view {name}") for name in names)
    assert stale == {"online": reasons}
    assert "online" in succeed(plain_shop, "build").split()
    assert len(online.filled_views(settings)) == 2
    assert "Nothing to do" in succeed(plain_shop, "build")


def test_lineage_leads_from_a_version_to_its_topic_and_files_and_back(shop_after_kills: Settings) -> None:
    store = lineage.open(shop_after_kills)
    up = {(n.dataset.kind, n.dataset.name) for n in upstream(store, "model", "purchase@1").walk()}
    down = {(n.dataset.kind, n.dataset.name) for n in downstream(store, "topic", "user_behaviour").walk()}
    store.close()
    assert {("topic", "user_behaviour"), ("file", "data/departments.csv"), ("table", "clean_events")} <= up
    assert {("model", "purchase@1"), ("endpoint", "purchase"), ("table", "view_outcomes")} <= down


def test_lineage_graph_is_the_expected_one_and_conforms(shop_after_kills: Settings) -> None:
    store = lineage.open(shop_after_kills)
    events = [json.loads(body) for _, body in store.unsent("http://127.0.0.1:9", 100_000)]
    store.close()
    check_event = make_event_check()
    read: dict[str, set[str]] = defaultdict(set)
    written: dict[str, set[str]] = defaultdict(set)
    parents: dict[str, set[str]] = defaultdict(set)
    for event in events:
        check_event(event)
        job = event["job"]["name"]
        read[job] |= {dataset["name"] for dataset in event["inputs"]}
        written[job] |= {dataset["name"] for dataset in event["outputs"]}
        parents[job].add(event["run"]["facets"].get("parent", {}).get("job", {}).get("name", ""))
    assert {job: (read[job], written[job]) for job in read} == GRAPH
    steps = {f"train.purchase.{step}" for step in ("split", "tuning", "fit", "evaluation")}
    assert parents == {job: {"train.purchase"} if job in steps else {""} for job in GRAPH}


def test_lineage_names_the_columns_each_feature_is_computed_from(shop_after_kills: Settings) -> None:
    store = lineage.open(shop_after_kills)
    (run,) = store.runs(job="training set purchase", limit=1)
    facets = store.events(run.id)[-1]["outputs"][0]["facets"]
    store.close()
    fields = {field["name"] for field in facets["schema"]["fields"]}
    lines = {
        column: {(source["name"], source["field"]) for source in line["inputFields"]}
        for column, line in facets["columnLineage"]["fields"].items()
    }
    assert lines.keys() == fields
    assert {name for sources in lines.values() for name, _ in sources} == GRAPH["training_set.purchase"][0]
    tables = {name: lake.open(shop_after_kills).table(name).schema().names for name in TABLES[:-1]}
    for column, sources in lines.items():
        for name, field in sources:
            assert field in tables[name.removeprefix("table/")], f"{column} <- {name}.{field}"


def test_no_file_of_the_copy_names_the_original(shop_after_kills: Settings, plain_shop: Path) -> None:
    original = f"{plain_shop}/"
    for path in shop_after_kills.state.rglob("*"):
        if path.is_file() and ".db" not in path.name:
            assert original.encode() not in path.read_bytes(), path
    for name in ("lake/catalog.db", "mlflow/mlflow.db", "lineage.db", "online.db"):
        with closing(sqlite3.connect(shop_after_kills.place(name))) as db:
            assert not any(original in line for line in db.iterdump()), name


def test_feast_alone_opens_the_feature_repository_of_the_copy(shop_after_kills: Settings) -> None:
    from feast import FeatureStore

    store = FeatureStore(repo_path=str(shop_after_kills.place("feast")))
    assert [service.name for service in store.list_feature_services()]
    assert not Path(store.config.offline_store.root).is_absolute()


def test_no_file_holds_a_secret(shop_after_kills: Settings) -> None:
    secrets = [secret.encode() for secret in (*SECRETS.values(), PASSWORD)]
    archives = 0
    for file in shop_after_kills.root.rglob("*"):
        if not file.is_file() or file == shop_after_kills.root / "headrace.toml":
            continue
        text = file.read_bytes()
        if file.name == "source.tar.gz":
            archives += 1
            with tarfile.open(fileobj=io.BytesIO(text)) as archive:
                members = [archive.extractfile(member) for member in archive.getmembers()]
                text = b"".join(member.read() for member in members if member is not None)
            assert b"anna:***@" in text
        assert [secret for secret in secrets if secret in text] == [], file
    assert archives
    release = ("release", "purchase", "champion=1", "--debug")
    for arguments, code, error in ((("--profile", "prod"), 2, "has a password"), ((), 1, "MLflow failed")):
        environment = {**os.environ, **SECRETS, **({} if arguments else {"HEADRACE_MLFLOW": MLFLOW})}
        out = call_headrace(*release, *arguments, folder=shop_after_kills.root, environment=environment)
        assert (out.returncode, error in out.stderr) == (code, True), out.stderr
        assert PASSWORD not in out.stdout + out.stderr


def test_ctrl_c_ends_a_build_without_a_traceback_and_the_next_continues_it(shop_after_kills: Settings) -> None:
    tables = shop_after_kills.root / "shop" / "tables.py"
    text = tables.read_text()
    assert "    return events.select(" in text
    tables.write_text(text.replace("    return events.select(", "    unused = 1\n    return events.select(", 1))
    process = subprocess.Popen(
        [sys.executable, "-m", "headrace.cli.main", "build", "product_facts", "view_outcomes"],
        cwd=shop_after_kills.root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline()  # the first stage has ended
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=300)
    assert (process.returncode, err.strip()) == (130, "interrupted")
    assert "product_facts" in succeed(shop_after_kills.root, "build", "product_facts", "view_outcomes")
    assert rows(shop_after_kills, "product_facts").height
