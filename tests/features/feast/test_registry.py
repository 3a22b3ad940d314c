from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from feast import Entity, FeatureStore, ValueType
from feast.types import Float64

from headrace.config.settings import make_settings
from headrace.features.applied.postgres import PostgresRegistry
from headrace.features.applied.registry import REGISTRY, folder, registry_digest
from headrace.features.feast import apply, compile, fingerprints  # noqa: A004
from headrace.features.feast.repository import repository_yaml
from headrace.features.feast.views import add_key_dtypes, compile_stored_view
from headrace.kernel.addresses import path_of
from headrace.kernel.errors import ProjectError, Unavailable
from headrace.projects.project import Project


@pytest.fixture(params=["files", "sqlite", "postgres"])
def database(request: pytest.FixtureRequest) -> str:
    if request.param == "postgres":
        return str(request.getfixturevalue("empty_database"))
    return {"files": "", "sqlite": "sqlite"}[request.param]


def open_store(project: Project) -> FeatureStore:
    return FeatureStore(repo_path=str(apply(project).folder))


def test_stock_feast_reads_the_registry(shop: Project) -> None:
    store = open_store(shop)
    assert {view.name for view in store.list_all_feature_views()} == {
        "user_activity",
        "product_facts",
        "moment",
    }
    assert [service.name for service in store.list_feature_services()] == ["purchase"]
    assert {entity.name for entity in store.list_entities()} == {"user", "product"}
    assert {source.name for source in store.list_data_sources()} == {
        "clean_events",
        "clean_events_stream",
        "product_facts",
        "asked",
    }
    aggregations = store.get_stream_feature_view("user_activity").aggregations
    assert len(aggregations) == len(shop.modules[2].user_activity.aggregations)


def test_views_of_the_registry_are_those_of_the_plan(shop: Project) -> None:
    store = open_store(shop)
    entities = {entity.name: entity for entity in store.list_entities()}
    plan = compile(shop, shop.model("purchase"))
    for view in plan.stored:
        registered = store.registry.get_any_feature_view(view.name, store.project)
        compiled = add_key_dtypes(compile_stored_view(registered, entities, "here"), plan.entities)
        assert compiled.digest == view.digest


def test_apply_writes_only_what_changed(small: Callable[..., Project]) -> None:
    project = small()
    first = apply(project)
    assert (first.changed, first.objects) == (True, 7)
    digest = registry_digest(project.settings)
    assert not apply(project).changed
    assert registry_digest(project.settings) == digest != ""
    assert not apply(small(("TIMES = 1.0", "TIMES = 1.0  # as it is"))).changed
    assert apply(small(("TIMES = 1.0", "TIMES = 2.0"))).changed
    assert registry_digest(project.settings) != digest
    files = {file.name for file in first.folder.iterdir()}
    assert files - {"registry.db"} == {"applied.txt", "feature_store.yaml"}
    assert ("registry.db" in files) is (project.settings.features.feast_registry == "file")


def test_apply_restores_what_feast_removed_from_the_registry(small: Callable[..., Project]) -> None:
    project = small()
    store = open_store(project)
    names = {view.name for view in store.list_all_feature_views()}

    def empty(store: FeatureStore) -> None:  # as `feast apply` does where it finds no definitions
        everything = [*store.list_feature_services(), *store.list_all_feature_views(), *store.list_entities()]
        store.apply([], objects_to_delete=everything, partial=False)

    def delete_view(store: FeatureStore) -> None:
        store.delete_feature_view("facts")

    def spoil(store: FeatureStore) -> None:
        url = project.settings.features.feast_registry
        if url == "file":
            (folder(project.settings) / REGISTRY).write_bytes(b"no registry")
        elif url == "sqlite":
            path_of(project.settings.features.registry_url).unlink()
        else:
            with psycopg.connect(url) as database:
                database.execute("drop schema headrace_small cascade")

    for harm in (empty, delete_view, FeatureStore.teardown, spoil):
        harm(store)
        assert apply(project).changed
        store = open_store(project)
        assert {view.name for view in store.list_all_feature_views()} == names
        assert not apply(project).changed


def test_apply_keeps_feasts_record_of_a_materialization(small: Callable[..., Project]) -> None:
    project = small()
    store = open_store(project)
    now = datetime.now(UTC)
    for view in ("facts", "activity"):
        store.registry.apply_materialization(
            store.registry.get_any_feature_view(view, store.project), store.project, now, now
        )
    store = open_store(project)
    assert store.get_feature_view("facts").materialization_intervals
    assert not apply(project).changed


def test_apply_removes_undeclared_objects(small: Callable[..., Project]) -> None:
    assert len(open_store(small()).list_all_feature_views()) == 3
    store = open_store(
        small(("activity = Stream", "_ = activity = Stream"), ("moment]", "]"), ("moment", "other"))
    )
    assert {view.name for view in store.list_all_feature_views()} == {"activity", "facts", "other"}
    assert [view.features[0].name for view in store.list_on_demand_feature_views()] == ["ratio"]


def test_a_registered_function_carries_everything_it_uses(small: Callable[..., Project]) -> None:
    moment = open_store(small()).get_on_demand_feature_view("moment")
    assert moment.feature_transformation.udf({"price": 3.0, "mean_price": 2.0}) == {"ratio": 1.5}


@pytest.mark.parametrize("point", ["feast.apply.begin", "feast.apply.registry"])
def test_apply_recovers_from_a_kill(small: Callable[..., Project], point: str) -> None:
    project = small()
    first = apply(project)
    before = registry_digest(project.settings)
    changed = small(("TIMES = 1.0", "TIMES = 2.0"))
    program = f"""
from pathlib import Path
from headrace.config.settings import load_settings
from headrace.projects.project import load_project
from headrace.features.feast import apply
apply(load_project(load_settings(Path({str(project.settings.root)!r}))))
"""
    killed = subprocess.run(
        [sys.executable, "-c", program],
        env={"PATH": "/usr/bin:/bin", "HEADRACE_FAULT": point},
        capture_output=True,
        timeout=300,
    )
    assert killed.returncode == -9, killed.stderr
    between = FeatureStore(repo_path=str(first.folder))
    assert len(between.list_all_feature_views()) == 3
    assert (registry_digest(project.settings) == before) is (point == "feast.apply.begin")
    assert apply(changed).changed
    assert not apply(changed).changed


def test_fingerprints_follow_content(small: Callable[..., Project]) -> None:
    plain = fingerprints(small())
    assert set(plain) == {
        "entity:user",
        "entity:item",
        "feature_view:facts",
        "feature_view:activity",
        "feature_view:moment",
        "feature_service:bought",
        "data_source:asked",
    }
    assert fingerprints(small(("TIMES = 1.0", "TIMES =  1.0  # times\n"))) == plain

    def differ(*replaced: tuple[str, str], tables: tuple[tuple[str, str], ...] = ()) -> set[str]:
        other = fingerprints(small(*replaced, tables=tables))
        return {name for name in plain if other[name] != plain[name]}

    assert differ(("TIMES = 1.0", "TIMES = 2.0")) == {"feature_view:moment"}
    assert differ(("time_window=DAY", "time_window=2 * DAY")) == {"feature_view:activity"}
    assert "feature_view:activity" in differ(tables=(("SCALE = 2.0", "SCALE = 3.0"),))
    assert "feature_view:facts" not in differ(tables=(("SCALE = 2.0", "SCALE = 3.0"),))
    assert differ(('join_keys=["item"]', 'join_keys=["item"], description="goods"')) == {"entity:item"}


def test_fingerprints_are_the_same_in_another_process(small: Callable[..., Project], tmp_path: Path) -> None:
    project = small()
    program = f"""
from pathlib import Path
from headrace.config.settings import load_settings
from headrace.projects.project import load_project
from headrace.features.feast import fingerprints
print(fingerprints(load_project(load_settings(Path({str(project.settings.root)!r})))))
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PATH": "/usr/bin:/bin", "PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(fingerprints(project))


def test_apply_reports_what_feast_refuses(small: Callable[..., Project]) -> None:
    project = small(('Field(name="ratio", dtype=Float64)', 'Field(name="ratio", dtype=String)'))
    with pytest.raises(ProjectError, match="'moment' does not return the features of its schema"):
        apply(project)


def test_two_views_may_each_make_the_source_of_one_table(small: Callable[..., Project]) -> None:
    other = "other = FeatureView(name='other', entities=[user], source=TableSource(scaled),"
    other += " schema=[Field(name='price', dtype=Float64)])\nbought_features ="
    store = open_store(small(("bought_features =", other)))
    assert sorted(source.name for source in store.list_data_sources() if source.name == "scaled") == ["scaled"]
    assert (
        store.get_feature_view("other").batch_source == store.get_stream_feature_view("activity").batch_source
    )


RIGHT = [
    "None",  # missing, as at run time
    "0",  # a whole number is a float
    "1 / (inputs['price'] - inputs['price'])",  # it fails on the sample, but not on real inputs
]


@pytest.mark.parametrize("returned", RIGHT)
def test_a_function_may_return_what_serving_takes(small: Callable[..., Project], returned: str) -> None:
    project = small(("def moment(inputs):", f"def moment(inputs):\n    return {{'ratio': {returned}}}"))
    assert apply(project).changed
    (field,) = open_store(project).get_on_demand_feature_view("moment").features
    assert (field.name, field.dtype) == ("ratio", Float64)


@pytest.mark.parametrize("returned", ["'other': 1.0", "'ratio': 'text'"])
def test_a_function_that_returns_something_else_is_named_with_its_place(
    small: Callable[..., Project], returned: str
) -> None:
    project = small(("def moment(inputs):", f"def moment(inputs):\n    return {{{returned}}}"))
    with pytest.raises(
        ProjectError, match="on-demand view 'moment' does not return the features of its schema"
    ) as raised:
        apply(project)
    assert "features.py:" in (raised.value.where or "")


def test_feasts_teardown_empties_the_registry_of_no_other_project(empty_database: str, tmp_path: Path) -> None:
    """Feast deletes the rows of every project in its tables, so each project has tables of its own."""
    stores, registries = {}, {}
    for name in ("kept", "emptied"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "headrace.toml").write_text(f'[project]\nname = "{name}"\n')
        settings = make_settings(folder, name, values={"feast_registry": empty_database})
        registries[name] = PostgresRegistry(settings)
        registries[name].prepare()
        (folder / "feature_store.yaml").write_text(repository_yaml(settings, folder / "registry.db"))
        stores[name] = FeatureStore(repo_path=str(folder))
        stores[name].apply([Entity(name="user", value_type=ValueType.INT64)])
    digests = {name: registry.digest() for name, registry in registries.items()}
    stores["emptied"].teardown()
    assert registries["kept"].digest() == digests["kept"]
    assert registries["emptied"].digest() != digests["emptied"]


def test_a_registry_that_is_no_sqlite_file_is_told_with_its_place(small: Callable[..., Project]) -> None:
    project = small()
    file = project.settings.root / "other #1.db"
    file.write_bytes(b"no registry" * 100)
    other = project.settings.with_values(feast_registry=f"sqlite://{file}")
    with pytest.raises(Unavailable, match="Feast's registry is damaged") as caught:
        registry_digest(other)
    assert (caught.value.where, caught.value.remedy) == (
        str(file),
        "Remove the file: headrace build writes it anew.",
    )


def test_a_registry_that_is_away_is_told_with_its_address(small: Callable[..., Project]) -> None:
    project = small()
    away = project.settings.with_values(feast_registry="postgresql://anna@127.0.0.1:1/features")
    with pytest.raises(Unavailable, match="the PostgreSQL server cannot be reached") as caught:
        registry_digest(away)
    assert caught.value.where == "postgresql://anna@127.0.0.1:1/features"
    with pytest.raises(ProjectError, match="has a password in it"):
        registry_digest(project.settings.with_values(feast_registry="postgresql://anna:s3cret@host/features"))
    with pytest.raises(ProjectError, match="'mysql://host/db' is not the address of a Feast registry"):
        registry_digest(project.settings.with_values(feast_registry="mysql://host/db"))
