"""Settings: what is looked up where, and what is said of a wrong one."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.config.settings import find_root, load_settings
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
    assert settings.log_url == f"sqlite://{state}/log"
    assert settings.catalog_url == f"sqlite://{state}/lake/catalog.db"
    assert settings.warehouse_url == f"{state}/lake/warehouse"
    assert settings.online_url == f"sqlite://{state}/online.db"
    assert settings.profile.host == "127.0.0.1"
    assert not state.exists()
    settings.made_state()
    assert state.stat().st_mode & 0o777 == 0o700


def test_a_profile_names_other_addresses_and_the_environment_overrides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = project(
        tmp_path,
        '[project]\nname = "shop"\n[profile.prod]\nlog = "kafka://broker:9092"\npredict_port = 80\n',
    )
    assert load_settings(folder, "prod").log_url == "kafka://broker:9092"
    monkeypatch.setenv("HEADRACE_PROFILE", "prod")
    monkeypatch.setenv("HEADRACE_LOG", "kafka://other:9092")
    monkeypatch.setenv("HEADRACE_PREDICT_PORT", "81")
    monkeypatch.setenv("HEADRACE_LINEAGE", "http://a,http://b")
    settings = load_settings(folder)
    assert (settings.profile_name, settings.log_url) == ("prod", "kafka://other:9092")
    assert (settings.profile.predict_port, settings.profile.lineage) == (81, ("http://a", "http://b"))


def test_the_project_is_found_from_inside(tmp_path: Path) -> None:
    project(tmp_path, '[project]\nname = "shop"\n')
    inside = tmp_path / "a" / "b"
    inside.mkdir(parents=True)
    assert find_root(inside) == tmp_path
    assert load_settings(inside).root == tmp_path


@pytest.mark.parametrize(
    ("text", "profile", "said"),
    [
        ("[project", None, "not valid TOML"),
        ('[project]\nname = "Shop!"\n', None, "'Shop!' is no project name"),
        ("[project]\n", None, "name"),
        ('[project]\nname = "shop"\ncolour = 1\n', None, "no setting 'colour'"),
        ('[projet]\nname = "shop"\n', None, "Did you mean 'project'?"),
        ('[project]\nname = "shop"\n[profile.local]\nwarehose = "x"\n', None, "Did you mean 'warehouse'?"),
        ('[project]\nname = "shop"\n[profile.local]\npredict_port = "x"\n', None, "profile.local.predict_port"),
        ('[project]\nname = "shop"\n[profile.prod]\n', "prd", "no profile 'prd'"),
        ('profile = 3\n[project]\nname = "shop"\n', "x", "no profile 'x'"),
    ],
)
def test_a_wrong_file_is_said_with_its_place(tmp_path: Path, text: str, profile: str | None, said: str) -> None:
    with pytest.raises(ProjectError) as caught:
        load_settings(project(tmp_path, text), profile)
    assert said in str(caught.value)
    assert str(tmp_path / "headrace.toml") in str(caught.value)


def test_no_project_is_said_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ProjectError) as caught:
        load_settings(tmp_path)
    assert "headrace init" in str(caught.value)
