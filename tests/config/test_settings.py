"""Settings: what is looked up where, and the errors for wrong ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.config.settings import find_root, load_settings, make_settings
from headrace.kernel.errors import ProjectError


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HEADRACE_PROFILE", "HEADRACE_LOG", "HEADRACE_STATE", "HEADRACE_LINEAGE"):
        monkeypatch.delenv(name, raising=False)


def project(folder: Path, text: str) -> Path:
    (folder / "headrace.toml").write_text(text)
    return folder


def test_an_empty_profile_is_all_embedded(tmp_path: Path) -> None:
    settings = load_settings(project(tmp_path, '[project]\nname = "shop"\n'))
    state = tmp_path / ".headrace" / "local"
    assert (settings.project, settings.profile_name, settings.state) == ("shop", "local", state)
    assert settings.log.url == f"sqlite://{state}/log"
    assert settings.lake.catalog_url == f"sqlite://{state}/lake/catalog.db"
    assert settings.lake.warehouse_url == f"{state}/lake/warehouse"
    assert settings.online.url == f"sqlite://{state}/online.db"
    assert settings.http.host == "127.0.0.1"
    assert not state.exists()
    settings.make_state()
    assert state.stat().st_mode & 0o777 == 0o700


def test_a_profile_names_other_addresses_and_the_environment_overrides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = project(
        tmp_path,
        '[project]\nname = "shop"\n[profile.prod]\nlog = "kafka://broker:9092"\npredict_port = 80\n',
    )
    assert load_settings(folder, "prod").log.url == "kafka://broker:9092/shop"
    monkeypatch.setenv("HEADRACE_PROFILE", "prod")
    monkeypatch.setenv("HEADRACE_LOG", "kafka://other:9092")
    monkeypatch.setenv("HEADRACE_PREDICT_PORT", "81")
    monkeypatch.setenv("HEADRACE_LINEAGE", "http://a, http://b")
    monkeypatch.setenv("HEADRACE_TRUST", "")
    settings = load_settings(folder)
    assert (settings.profile_name, settings.log.url) == ("prod", "kafka://other:9092/shop")
    assert (settings.http.predict_port, settings.lineage.endpoints) == (81, ("http://a", "http://b"))
    assert settings.registry.trust == ()


def test_the_project_is_found_from_inside(tmp_path: Path) -> None:
    project(tmp_path, '[project]\nname = "shop"\n')
    inside = tmp_path / "a" / "b"
    inside.mkdir(parents=True)
    assert find_root(inside) == tmp_path
    assert load_settings(inside).root == tmp_path


@pytest.mark.parametrize(
    ("text", "profile", "message"),
    [
        ("[project", None, "not valid TOML"),
        ('[project]\nname = "Shop!"\n', None, "'Shop!' is not a valid project name"),
        ("[project]\n", None, "name"),
        ('[project]\nname = "shop"\ncolour = 1\n', None, "setting 'colour' does not exist"),
        ('[projet]\nname = "shop"\n', None, "Did you mean 'project'?"),
        ('[project]\nname = "shop"\n[profile.local]\nwarehose = "x"\n', None, "Did you mean 'warehouse'?"),
        ('[project]\nname = "shop"\n[profile.local]\npredict_port = "x"\n', None, "profile.local.predict_port"),
        ('[project]\nname = "shop"\n[profile.prod]\n', "prd", "profile 'prd' does not exist"),
        ('profile = 3\n[project]\nname = "shop"\n', "x", "profile 'x' does not exist"),
    ],
)
def test_an_error_in_the_file_names_its_place(
    tmp_path: Path, text: str, profile: str | None, message: str
) -> None:
    with pytest.raises(ProjectError) as caught:
        load_settings(project(tmp_path, text), profile)
    assert message in str(caught.value)
    assert str(tmp_path / "headrace.toml") in str(caught.value)


def test_a_missing_project_is_reported_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ProjectError) as caught:
        load_settings(tmp_path)
    assert "headrace init" in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "text", "message"),
    [
        ("HEADRACE_REPLICAS", "two", "the environment: HEADRACE_REPLICAS: Expected `int`"),
        ("HEADRACE_REPLICAS", "0", "the environment: HEADRACE_REPLICAS: Expected `int` >= 1"),
        ("HEADRACE_PREDICT_PORT", "70000", "the environment: HEADRACE_PREDICT_PORT: Expected `int` <= 65535"),
        ("HEADRACE_SERVING", "docker", "the environment: HEADRACE_SERVING: Invalid enum value 'docker'"),
    ],
)
def test_a_wrong_variable_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, text: str, message: str
) -> None:
    monkeypatch.setenv(variable, text)
    with pytest.raises(ProjectError) as caught:
        load_settings(project(tmp_path, '[project]\nname = "shop"\n'))
    assert str(caught.value).startswith(message)


def test_a_wrong_item_of_a_list_is_named_by_its_place(tmp_path: Path) -> None:
    text = '[project]\nname = "shop"\n[profile.local]\nalerts = ["https://a", 3]\n'
    with pytest.raises(ProjectError) as caught:
        load_settings(project(tmp_path, text))
    assert "profile.local.alerts[1]: Expected `str`" in str(caught.value)


def test_what_the_file_says_must_be_right_even_where_it_is_overridden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_REPLICAS", "2")
    with pytest.raises(ProjectError, match=r"profile\.local\.replicas"):
        load_settings(project(tmp_path, '[project]\nname = "shop"\n[profile.local]\nreplicas = "x"\n'))


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("log", '"kafka://anna:s3cret@broker:9092"'),
        ("catalog", '"https://anna:s3cret@catalog.example"'),
        ("online", '"redis://:s3cret@redis:6379/0"'),
        ("mlflow", '"https://anna:s3cret@mlflow.example"'),
        ("lineage", '["https://lineage.example", "https://anna:s3cret@lineage.example"]'),
        ("alerts", '["https://ops.example/hook?token=s3cret"]'),
        ("databases", '{ old = "sqlite:old.db", shop = "postgresql://anna:s3cret@db.example/shop" }'),
    ],
)
def test_a_password_in_the_file_is_refused_and_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str, value: str
) -> None:
    folder = project(tmp_path, f'[project]\nname = "shop"\n[profile.local]\n{setting} = {value}\n')
    with pytest.raises(ProjectError, match=rf"\.{setting}: the address has a password") as refused:
        load_settings(folder)
    assert "s3cret" not in str(refused.value)
    assert f"HEADRACE_{setting.upper()} in the environment" in str(refused.value)
    monkeypatch.setenv("HEADRACE_CATALOG", "https://anna:s3cret@catalog.example")  # there it may
    assert "s3cret" in load_settings(project(tmp_path, '[project]\nname = "shop"\n')).lake.catalog


@pytest.mark.parametrize("value", ["rayserve", ""])
def test_a_value_that_a_setting_does_not_have_is_refused_with_those_it_has(tmp_path: Path, value: str) -> None:
    text = f'[project]\nname = "shop"\n[profile.local]\nserving = "{value}"\n'
    with pytest.raises(ProjectError, match=f"Invalid enum value '{value}'") as refused:
        load_settings(project(tmp_path, text))
    assert refused.value.remedy == "It is one of 'processes', 'ray_serve'."


def test_replicas_run_where_the_cluster_is_unless_a_setting_says_otherwise(tmp_path: Path) -> None:
    local = make_settings(tmp_path, "shop")
    assert local.deployment == "processes"
    assert local.with_values(ray="ray://head:10001").deployment == "ray_serve"
    assert local.with_values(ray="ray://head:10001", serving="processes").deployment == "processes"


def test_other_values_keep_all_else(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, "shop", "prod", values={"log": "kafka://a:1"})
    other = settings.with_values(replicas=3)
    assert (other.log.url, other.serving.replicas, other.state) == ("kafka://a:1/shop", 3, settings.state)
    assert settings.with_state(tmp_path / "x").lake.catalog_url == f"sqlite://{tmp_path}/x/lake/catalog.db"
    with pytest.raises(ProjectError, match="Did you mean 'replicas'"):
        settings.with_values(replica=3)


def test_two_projects_do_not_share_a_state_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One HEADRACE_STATE for two projects: each would ship the predictions and read the log of the other."""
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        project(tmp_path / name, f'[project]\nname = "{name}"\n')
    monkeypatch.setenv("HEADRACE_STATE", str(tmp_path / "state"))
    load_settings(tmp_path / "first").make_state()
    assert load_settings(tmp_path / "first").state == tmp_path / "state" / "local"
    with pytest.raises(ProjectError, match="has the state of project 'first', not of 'second'") as refused:
        load_settings(tmp_path / "second")
    assert refused.value.where == "the environment: HEADRACE_STATE"
    assert f"such as {tmp_path / 'state' / 'second'}" in str(refused.value)
    (tmp_path / "state" / "local" / "project").unlink()  # as the error says for a project that was renamed
    load_settings(tmp_path / "second").make_state()


def test_a_project_may_be_renamed_in_its_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project(tmp_path, '[project]\nname = "first"\n')
    load_settings(tmp_path).make_state()
    project(tmp_path, '[project]\nname = "second"\n')
    assert load_settings(tmp_path).make_state() == tmp_path / ".headrace" / "local"
    monkeypatch.setenv("HEADRACE_STATE", str(tmp_path / ".headrace"))  # as `up` sets it for its children
    assert load_settings(tmp_path).state == tmp_path / ".headrace" / "local"
