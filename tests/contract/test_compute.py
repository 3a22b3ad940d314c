"""The contract of Compute in this process and on Ray: the same rows, errors that name the partition, and
nothing half-published whichever process is killed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import polars as pl
import pyarrow as pa
import pytest

from headrace.cluster.connection import connect
from headrace.config.settings import Settings, load_settings, make_settings
from headrace.declare.model import Model
from headrace.declare.place import Place
from headrace.declare.table import Table
from headrace.declare.trainers import XGBoost
from headrace.features import online
from headrace.features.aggregates import parse_function
from headrace.features.offline.point_in_time import join
from headrace.features.online.backfill import fill
from headrace.features.plan import (
    Aggregation,
    AsOfView,
    EntityKey,
    FeaturePlan,
    FeatureRef,
    PlanField,
    WindowedView,
)
from headrace.kernel.errors import ProjectError, Unavailable
from headrace.kernel.properties import FAILED_ROWS
from headrace.kernel.time import now_micros
from headrace.lake import Lake, LakeTable
from headrace.lake import open as open_lake
from headrace.projects.project import Project, load_project
from headrace.tables import parts
from headrace.tables.audits.rows import RowsRefused
from headrace.tables.build import TableBuild, build_table
from headrace.tables.failures import read_failures
from headrace.training.training_set import make, table_reader

pytestmark = pytest.mark.filterwarnings("ignore:.*:ResourceWarning")

START = datetime(2024, 3, 30, tzinfo=UTC)
HOUR, DAY = 3_600_000_000, 86_400_000_000  # microseconds
DAYS, EACH = 5, 40  # every second day has so many clicks: days apart are pieces of their own
PACKAGE = '''
import os, signal
from datetime import datetime, timedelta
from pathlib import Path
import dataframely as dy
import polars as pl
from headrace import Struct, by, day, event, table

HERE = Path(__file__).parent

@event(topic="clicks", time="at", key="user")
class Click(Struct):
    at: datetime
    user: int
    price: float

def note(rows, subject):
    """Notes a call: one byte in a file."""
    with (HERE / subject).open("ab") as file:
        file.write(b".")
    return rows

@table(reads=Click, partition_by=day("at"), rowwise=True)
def clean(clicks):
    return clicks.select("at", "user", "price", "_known_at")

@table(reads=clean, partition_by=by("user", parts=8))
def spent(clicks):
    return clicks.group_by("user").agg(clicks=pl.len(), spent=pl.col("price").sum())

def double(user):
    if user == 13:
        raise ValueError("user 13")
    return 2 * user

@table(reads=Click, rowwise=True)
def doubled(clicks):
    return clicks.select("at", "_known_at", user=pl.col("user").map_elements(double, return_dtype=pl.Int64))

@table(reads=clean, partition_by=day("at"))
def refusing(clicks):
    rows = note(clicks.collect(), "refusing.calls")
    is_late = rows["at"].min() > datetime.fromisoformat("2024-04-03T00:00:00+00:00")
    if is_late and not (HERE / "mended").exists():
        raise ValueError("no day after 3 April")
    return rows

class Cheap(dy.Schema):
    at = dy.Datetime(time_unit="us", time_zone="UTC")
    user = dy.Int64()
    price = dy.Float64(max=4.0)

@table(reads=clean, partition_by=day("at"), schema=Cheap)
def cheap(clicks):
    return clicks.select("at", "user", "price")

@table(reads=clean, partition_by=day("at"))
def dying(clicks):
    rows = clicks.collect()
    if rows["at"].min() > datetime.fromisoformat("2024-04-03T00:00:00+00:00"):
        deaths = HERE / "deaths"
        count = len(deaths.read_bytes()) if deaths.exists() else 0
        if count < int((HERE / "lives").read_text()):
            note(rows, "deaths")
            os.kill(os.getpid(), signal.SIGKILL)
    return rows
'''
BUILDER = """
import sys
from pathlib import Path
from headrace import lake
from headrace.config.settings import load_settings
from headrace.projects.project import load_project
from headrace.tables.build import build_table

project = load_project(load_settings(Path(sys.argv[1])))
build_table(project, lake.open(project.settings), project.table("clean"), code="1")
"""


@pytest.fixture(scope="module")
def ray_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Ray that runs for the module, as a cluster runs for its projects. Its tasks run as in the builds of
    other processes: by its address."""
    with connect(make_settings(tmp_path_factory.mktemp("ray"), "cluster"), own=True):
        import ray

        yield ray.get_runtime_context().gcs_address


@pytest.fixture(params=["local", "ray"])
def compute(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def settings(compute: str, request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "__init__.py").write_text(PACKAGE)
    lines = f'compute = "{compute}"\n'
    if compute == "ray":
        lines += f'ray = "{request.getfixturevalue("ray_address")}"\n'
    (tmp_path / "headrace.toml").write_text(f'[project]\nname = "small"\n[profile.local]\n{lines}')
    return load_settings(tmp_path)


@pytest.fixture
def project(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    yield load_project(settings)
    sys.path.remove(str(settings.root))


@pytest.fixture
def ray_only(compute: str) -> None:
    if compute != "ray":
        pytest.skip("there are no workers")


def expected_clicks() -> list[tuple[datetime, int, float]]:
    return [
        (START + timedelta(days=2 * number, minutes=n), (7 * n + number) % 20, 0.5 * (n % 8))
        for number in range(DAYS)
        for n in range(EACH)
    ]


@pytest.fixture
def lake(project: Project) -> Lake:
    """The lake, with the clicks of a day in each file."""
    opened = open_lake(project.settings)
    stamp = pa.timestamp("us", "UTC")
    fields = [("at", stamp), ("user", pa.int64()), ("price", pa.float64()), ("_log_partition", pa.int32())]
    fields += [
        ("_log_offset", pa.int64()),
        ("_arrived_at", stamp),
        ("_known_at", stamp),
        ("_valid", pa.bool_()),
    ]
    topic: LakeTable = opened.ensure("clicks", pa.schema(fields), [("_valid", "identity"), ("at", "day")])
    at, user, price = zip(*expected_clicks(), strict=True)
    rows = {"at": pa.array(at, stamp), "user": pa.array(user, pa.int64()), "price": pa.array(price)}
    rows |= {"_known_at": rows["at"], "_valid": pa.array([True] * len(at))}
    rows |= {"_log_partition": pa.array([0] * len(at), pa.int32()), "_log_offset": pa.array(range(len(at)))}
    topic.append(pa.table(rows))
    return opened


def build(project: Project, lake: Lake, *names: str) -> TableBuild:
    return [build_table(project, lake, project.table(name), code="1") for name in names][-1]


def test_a_table_by_day_and_one_by_key_have_the_rows_of_the_definition(project: Project, lake: Lake) -> None:
    build(project, lake, "clean")
    rows = lake.table("clean").scan().select("at", "user", "price").collect().rows()
    assert sorted(rows) == sorted(expected_clicks())
    built = build(project, lake, "spent")
    counts = Counter(user for _, user, _ in expected_clicks())
    sums = {u: sum(price for _, user, price in expected_clicks() if user == u) for u in counts}
    stored = lake.table("spent").scan().sort("user").collect()
    assert stored.rows() == [(user, counts[user], sums[user]) for user in sorted(counts)]
    assert built.partitions is None or len(built.partitions) == 8


def test_a_table_by_key_in_many_pieces_reads_its_input_once_and_leaves_no_files(
    project: Project, lake: Lake, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(project, lake, "clean")
    monkeypatch.setattr(parts, "PIECE_LIMITS", (1, 1))  # a part is a piece
    left = settings.make_state() / "spill" / "left"
    left.mkdir(parents=True)
    (left / "owner").write_text("1 a build that was killed")
    build(project, lake, "spent")
    counts = Counter(user for _, user, _ in expected_clicks())
    stored = lake.table("spent").scan().select("user", "clicks").sort("user").collect()
    assert stored.rows() == sorted(counts.items())
    assert list(left.parent.iterdir()) == ([] if settings.tables.compute == "local" else [left])


def test_a_rowwise_table_without_partitions_is_made_in_pieces_and_leaves_out_failing_rows(
    project: Project, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "PIECE_LIMITS", (EACH + 1, 32))  # a file is a piece
    built = build(project, lake, "doubled")
    users = lake.table("doubled").scan().collect()["user"]
    assert sorted(users) == sorted(2 * user for _, user, _ in expected_clicks() if user != 13)
    failing = sum(user == 13 for _, user, _ in expected_clicks())
    assert read_failures(lake.table("doubled").property(FAILED_ROWS))[0] == failing
    assert str(built.left_out).startswith(f"left out {failing} rows that doubled() fails on: clicks@0:")
    assert len(lake.table("doubled").files(built.snapshot)) == DAYS


def test_a_partition_that_fails_is_named_and_what_is_written_is_kept(
    project: Project, lake: Lake, settings: Settings
) -> None:
    build(project, lake, "clean")
    with pytest.raises(ProjectError, match=r"refusing failed: ValueError: no day after 3 April") as failed:
        build(project, lake, "refusing")
    assert re.search(r"\(in partition 2024-04-0[57]\)$", failed.value.what)
    assert f"{settings.root}/small/__init__.py" in str(failed.value.where)
    assert lake.table("refusing").current_snapshot() is None
    package = settings.root / "small"
    (package / "mended").touch()
    (package / "refusing.calls").unlink()
    assert build(project, lake, "refusing").rows == DAYS * EACH
    assert len((package / "refusing.calls").read_bytes()) < DAYS  # at least the first day was written
    assert sorted(lake.table("refusing").scan().collect()["at"]) == sorted(at for at, _, _ in expected_clicks())


def test_refused_rows_are_kept_wherever_they_were_audited(project: Project, lake: Lake) -> None:
    build(project, lake, "clean")
    assert build(project, lake, "cheap").rows == DAYS * EACH
    late = START + timedelta(days=8, hours=5)
    topic = lake.table("clicks")
    row = {"at": pa.array([late, START], pa.timestamp("us", "UTC")), "user": [1, 1], "price": [9.0, 1.0]}
    topic.append(pa.table({**row, "_valid": [True, True], "_known_at": row["at"]}))
    build(project, lake, "clean")
    with pytest.raises(RowsRefused, match="price: max") as refused:
        build(project, lake, "cheap")
    assert "{'at'" not in str(refused.value)
    assert refused.value.failing == 1
    assert [row["price"] for row in refused.value.examples] == [9.0]
    assert refused.value.rows is not None
    assert refused.value.rows["price"].to_list() == [9.0]
    assert lake.table("headrace_failing_cheap").scan().collect()["price"].to_list() == [9.0]


@pytest.mark.usefixtures("ray_only")
def test_the_task_of_a_killed_worker_is_repeated(project: Project, lake: Lake, settings: Settings) -> None:
    build(project, lake, "clean")
    (settings.root / "small" / "lives").write_text("1")
    assert build(project, lake, "dying").rows == DAYS * EACH
    assert (settings.root / "small" / "deaths").read_bytes() == b"."
    assert sorted(lake.table("dying").scan().collect()["at"]) == sorted(at for at, _, _ in expected_clicks())


@pytest.mark.usefixtures("ray_only")
def test_a_worker_that_ends_each_time_names_the_partition_and_publishes_nothing(
    project: Project, lake: Lake, settings: Settings
) -> None:
    build(project, lake, "clean")
    lives = settings.root / "small" / "lives"
    lives.write_text("99")
    with pytest.raises(Unavailable, match=r"did not finish the task of table dying \(2024-04-0[357]\)"):
        build(project, lake, "dying")
    assert lake.table("dying").current_snapshot() is None
    lives.write_text("0")
    assert build(project, lake, "dying").rows == DAYS * EACH


def test_a_killed_build_publishes_nothing_and_is_continued(
    project: Project, lake: Lake, settings: Settings
) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", BUILDER, str(settings.root)],
        env={**os.environ, "HEADRACE_FAULT": "tables.after_part:3"},
        timeout=600,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    assert lake.table("clean").current_snapshot() is None
    steps: list[int] = []
    table = project.table("clean")
    build_table(project, lake, table, code="1", progress=lambda progress: steps.append(progress.done))
    assert steps == [3, 4, 5]
    rows = lake.table("clean").scan().select("at", "user", "price").collect().rows()
    assert sorted(rows) == sorted(expected_clicks())


@pytest.mark.usefixtures("ray_only")
def test_a_worker_with_other_files_of_the_project_is_refused(
    project: Project, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headrace.tables.compute import ray

    monkeypatch.setattr(ray, "_digest_files", lambda _: "the digest of the files of the build's machine")
    with pytest.raises(ProjectError, match="a worker of Ray has other files of the project") as refused:
        build(project, lake, "clean")
    assert "the same project folder" in str(refused.value.remedy)


def test_a_training_set_larger_than_memory_is_the_same_as_one_in_memory(project: Project, lake: Lake) -> None:
    instant = pl.Datetime("us", "UTC")
    minutes = pl.Series([START + timedelta(minutes=7 * n) for n in range(6_000)], dtype=instant)
    facts = pl.DataFrame({"user": [n % 21 for n in range(6_000)], "time": minutes, "x": range(6_000)})
    labels = pl.DataFrame(
        {
            "user": [n % 23 for n in range(3_000)],
            "event_timestamp": [START + timedelta(minutes=5 * n) for n in range(3_000)],
            "y": [n % 2 for n in range(3_000)],
        },
        schema_overrides={"event_timestamp": instant},
    ).sort("user", "event_timestamp")
    for name, frame in (("facts", facts), ("labels", labels)):
        rows = frame.to_arrow()
        lake.ensure(name, rows.schema).append(rows)
    spent = Aggregation("spent", "price", parse_function("sum"), DAY, HOUR, "float64")
    columns = (PlanField("price", "float64"),)
    views = (
        AsOfView("facts", ("user",), "facts", "time", (PlanField("x", "int64"),), 2 * DAY),
        WindowedView("activity", ("user",), "clicks", "clicks", None, "at", columns, (spent,)),
    )
    features = (FeatureRef("facts", "x", "int64"), FeatureRef("activity", "spent", "float64"))
    plan = FeaturePlan("m", (EntityKey("user", "user", "int64"),), views, features)
    outcomes = Table(name="labels", function=lambda frame: frame, reads=(), place=Place("?", 0))
    model = Model("m", labels=outcomes, target="y", features=None, trainer=XGBoost())
    small = msgspec.structs.replace(project, settings=project.settings.with_values(join_memory=1))
    training_rows = make(small, lake, model, plan)
    expected = join(labels, plan, lambda name: table_reader(project, lake, training_rows.inputs)(name))
    rows = lake.table(training_rows.table).scan(training_rows.snapshot).collect()
    assert rows.equals(expected.select(rows.columns))
    assert rows["activity__spent"].drop_nulls().n_unique() > 5
    assert rows["facts__x"].null_count() > 100


def test_the_online_store_gets_the_same_states(
    project: Project, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace.features.online.compute.ray._ALONE", 0)
    at = pl.Series([START + timedelta(minutes=n) for n in range(400)])
    rows = pl.DataFrame(
        {"user": [n * 7 % 50 for n in range(400)], "at": at, "price": [n / 4 for n in range(400)]}
    )
    rows = rows.with_columns(shop=pl.when(pl.col("user") > 2).then(pl.format("s{}", pl.col("user") % 3)))
    lake.ensure("prices", rows.to_arrow().schema).append(rows.to_arrow())
    price = (PlanField("price", "float64"),)
    views = (
        AsOfView("by_user", ("user",), "prices", "at", price),
        AsOfView("by_both", ("shop", "user"), "prices", "at", price),
        AsOfView("of_all", (), "prices", "at", price),
    )
    refs = tuple(FeatureRef(view.name, "price", "float64") for view in views)
    keys = (EntityKey("user", "user", "int64"), EntityKey("shop", "shop", "string"))
    plan = FeaturePlan("bought", keys, views, refs)
    with closing(online.open(project.settings)) as store:
        results = fill(project, lake, plan, store)
        assert [(result.view, result.rows, result.entities) for result in results] == [
            ("by_user", 400, 50),
            ("by_both", rows["shop"].count(), 47),
            ("of_all", 400, 1),
        ]
        asked = [{"user": user, "shop": f"s{user % 3}"} for user in range(52)]
        looked_up = store.lookup(plan, asked, now_micros()).rows
    newest = dict(rows.sort("at").select("user", "price").iter_rows())
    last = rows["price"][-1]
    assert looked_up == [[newest.get(user), newest.get(user) if user > 2 else None, last] for user in range(52)]


def test_a_key_of_another_type_is_named_by_whoever_computes_the_states(
    project: Project, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace.features.online.compute.ray._ALONE", 0)
    view = AsOfView("by_user", ("user",), "clicks", "at", (PlanField("price", "float64"),))
    refs = (FeatureRef("by_user", "price", "float64"),)
    plan = FeaturePlan("bought", (EntityKey("user", "user", "string"),), (view,), refs)
    with (
        closing(online.open(project.settings)) as store,
        pytest.raises(ProjectError, match="key 'user' of view 'by_user' is declared as string"),
    ):
        fill(project, lake, plan, store)
