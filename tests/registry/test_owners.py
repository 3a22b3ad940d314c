"""Two projects with a model of one name on one MLflow: neither gets at the versions or aliases of the other."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headrace import registry
from headrace.config.settings import Settings, load_settings
from headrace.kernel.errors import Refused
from headrace.registry.store import Registry

CALLS: dict[str, Callable[[Registry], Any]] = {
    "version": lambda opened: opened.version("purchase", 1),
    "alias as version": lambda opened: opened.version("purchase", "champion"),
    "versions": lambda opened: opened.versions("purchase"),
    "alias": lambda opened: opened.alias("purchase", "champion"),
    "set_alias": lambda opened: opened.set_alias("purchase", "champion", 1),
    "delete_alias": lambda opened: opened.delete_alias("purchase", "champion"),
    "artifact_uri": lambda opened: opened.artifact_uri("purchase", 1),
    "bundle": lambda opened: opened.bundle("purchase", 1),
    "bundle apart": lambda opened: opened.bundle("purchase", 1, apart=True),
}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "plan.json").write_text("{}")
    return folder


@pytest.fixture
def shared(settings: Settings) -> Settings:
    """The project shop on a store that it shares with others."""
    return settings.with_values(mlflow=f"sqlite:///{settings.root.parent}/shared.db")


def make_project(shared: Settings, name: str) -> Settings:
    """Another project on the same store, with the same signing key."""
    root = shared.root.with_name(name)
    (root / name).mkdir(parents=True)
    (root / "headrace.toml").write_text(f'[project]\nname = "{name}"\n')
    (root / name / "__init__.py").touch()
    return load_settings(root).with_values(mlflow=shared.registry.mlflow)


def register(opened: Registry, bundle: Path) -> int:
    return opened.register("purchase", bundle, metrics={}, params={}, tags={})


def test_a_model_of_another_project_is_refused(
    shared: Settings, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_SIGNING_KEY", "a team's key")  # so a signature keeps nothing apart
    owner = registry.open(shared)
    assert register(owner, bundle) == 1
    owner.set_alias("purchase", "champion", 1)
    other = make_project(shared, "bank")
    with_mlflow, without = registry.open(other), registry.open(other)
    with_mlflow.client  # noqa: B018 - it loads MLflow; the other one reads the tables itself
    refusal = (
        r"sqlite:.*shared.db: model 'purchase' of this MLflow belongs to project 'shop'\n.*to project 'bank'"
    )
    for opened in (with_mlflow, without):
        for call in CALLS.values():
            with pytest.raises(Refused, match=refusal):
                call(opened)
    assert without._mlflow.unopened_file is not None
    with pytest.raises(Refused, match=refusal):
        register(with_mlflow, bundle)
    assert register(owner, bundle) == 1
    versions = owner.versions("purchase")
    assert [(version.version, version.aliases) for version in versions] == [(1, ("champion",))]
    assert not with_mlflow.bundle_folder("purchase", 1).exists()
    assert with_mlflow.client.search_runs([with_mlflow.experiment]) == []  # no half registration either


def test_a_model_that_another_project_registers_meanwhile_is_refused(
    shared: Settings, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = registry.open(shared)
    client = opened.client

    def register_first(name: str, **options: Any) -> Any:
        monkeypatch.undo()
        assert register(registry.open(make_project(shared, "bank")), bundle) == 1
        return client.create_registered_model(name, **options)

    monkeypatch.setattr(client, "create_registered_model", register_first)
    with pytest.raises(Refused, match="belongs to project 'bank'"):
        register(opened, bundle)
    assert [entry.version for entry in client.search_model_versions("name = 'purchase'")] == [1]


def test_a_model_that_others_registered_is_refused_until_it_is_given_to_the_project(
    shared: Settings, bundle: Path
) -> None:
    opened = registry.open(shared)
    opened.client.create_registered_model("purchase")
    with pytest.raises(Refused, match="'purchase' of this MLflow was not registered by Headrace") as refused:
        register(opened, bundle)
    address, *command = shlex.split(str(refused.value.remedy).split("versions: ")[1])
    subprocess.run(
        [sys.executable, *command[1:]], env={**os.environ, **dict([address.split("=", 1)])}, check=True
    )
    assert register(opened, bundle) == 1
    assert registry.open(shared).version("purchase", 1).version == 1


def test_a_renamed_project_keeps_the_models_of_its_embedded_store(settings: Settings, bundle: Path) -> None:
    assert register(registry.open(settings), bundle) == 1
    (settings.root / "headrace.toml").write_text('[project]\nname = "store"\n')
    assert registry.open(load_settings(settings.root)).version("purchase", 1).version == 1
