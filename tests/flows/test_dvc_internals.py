"""The internals of DVC that flows.build.pipeline uses: these tests fail when one changes."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from dvc.config import Config
from dvc.exceptions import DvcException
from dvc.lock import LockError
from dvc.repo import Repo
from dvc.stage import PipelineStage
from dvc.utils.serialize import dump_yaml, load_yaml

from headrace.flows.build.dvc_lock import record_stage

PIPELINE = """
stages:
  copy:
    cmd: cp in.txt out.json
    deps: [in.txt]
    params: [code.json: [tables.a]]
    outs: [out.json: {cache: false, persist: true}, models]
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    Repo.init(str(tmp_path), no_scm=True, subdir=False, force=True).close()
    (tmp_path / "dvc.yaml").write_text(PIPELINE)
    (tmp_path / "in.txt").write_text("in")
    (tmp_path / "code.json").write_text('{"tables": {"a": ["piece 1"]}}')
    (tmp_path / "out.json").write_text("out")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "model.txt").write_text("model")
    return tmp_path


@contextmanager
def load_stage(repository: Path) -> Iterator[PipelineStage]:
    """The stage, while DVC's lock is held."""
    repo = Repo(str(repository))
    with repo.lock:
        yield repo.stage.load_one(str(repository / "dvc.yaml"), name="copy")
    repo.close()


def is_changed(repository: Path) -> bool:
    with load_stage(repository) as stage:
        return stage.changed()


def record(repository: Path) -> None:
    """Records the stage as Pipeline.record does."""
    with load_stage(repository) as stage:
        stage.save(run_cache=False)
        stage.commit()
        record_stage(repository, stage)


def test_a_stage_is_changed_until_it_is_recorded(repository: Path) -> None:
    assert is_changed(repository)
    record(repository)
    assert not is_changed(repository)
    (repository / "code.json").write_text('{"tables": {"a": ["piece 2"]}}')
    assert is_changed(repository)
    with load_stage(repository) as stage:
        assert stage.changed_deps()  # parameters count as dependencies


def test_a_checkout_restores_an_output_that_the_cache_has(repository: Path) -> None:
    record(repository)
    (repository / "models" / "model.txt").write_text("another")
    with load_stage(repository) as stage:
        assert not stage.changed_deps()
        stage.checkout(force=True, allow_missing=True)
    assert (repository / "models" / "model.txt").read_text() == "model"
    assert not is_changed(repository)


def test_the_lock_file_has_paths_md5_sums_and_parameters(repository: Path) -> None:
    record(repository)
    stage = load_yaml(str(repository / "dvc.lock"))["stages"]["copy"]
    md5 = hashlib.md5(b"in", usedforsecurity=False).hexdigest()
    assert [(entry["path"], entry["md5"]) for entry in stage["deps"]] == [("in.txt", md5)]
    assert [entry["path"] for entry in stage["outs"]] == ["models", "out.json"]
    assert stage["params"] == {"code.json": {"tables.a": ["piece 1"]}}


def test_a_recorded_stage_replaces_the_lock_file_that_dvc_writes(repository: Path) -> None:
    """A process that is killed leaves the old file or the new one: the old one is never written to."""
    record(repository)
    lock, old = repository / "dvc.lock", repository / "old.lock"
    before = lock.read_text()
    old.hardlink_to(lock)
    (repository / "in.txt").write_text("changed")
    record(repository)
    assert old.read_text() == before != lock.read_text()
    after = lock.read_text()
    lock.write_text(before)
    with load_stage(repository) as stage:
        stage.save(run_cache=False)
        stage.dump(update_pipeline=False)
    assert lock.read_text() == after


def test_a_stage_can_be_removed_from_the_lock_file(repository: Path) -> None:
    record(repository)
    lock = load_yaml(str(repository / "dvc.lock"))
    del lock["stages"]["copy"]
    dump_yaml(str(repository / "dvc.lock"), lock)
    assert is_changed(repository)


def test_the_setting_no_scm_can_move_to_the_local_configuration(repository: Path) -> None:
    config = Config(dvc_dir=str(repository / ".dvc"), validate=False)
    assert config.read("repo")["core"]["no_scm"]
    with config.edit("repo") as committed:
        del committed["core"]["no_scm"]
    with config.edit("local") as local:
        local.setdefault("core", {})["no_scm"] = True
    assert "no_scm" not in (repository / ".dvc" / "config").read_text()
    assert is_changed(repository)  # the folder is still a repository without git


def test_errors_have_their_base_class() -> None:
    assert issubclass(LockError, DvcException)


def test_repositories_accept_the_arguments_that_are_used() -> None:
    assert {"no_scm", "subdir", "force"} <= set(inspect.signature(Repo.init).parameters)
