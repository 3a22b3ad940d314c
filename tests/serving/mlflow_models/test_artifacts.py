"""Artefacts: stored whole, under the digest of their files, and checked before they are used."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.serving.mlflow_models.artifact import write_artifact

from headrace.kernel.errors import Refused, Unavailable
from headrace.serving.mlflow_models.artifacts import (
    digest_artifact,
    find_artifact,
    is_intact,
    remove_artifacts,
    store_artifact,
)


def copy_of(source: Path) -> Callable[[Path], Path]:
    return lambda folder: Path(shutil.copytree(source, folder / "artifacts"))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_artifact(tmp_path / "source")


def test_an_artifact_is_found_under_the_digest_of_its_files(tmp_path: Path, source: Path) -> None:
    root = tmp_path / "root"
    digest = store_artifact(root, copy_of(source))
    assert store_artifact(root, copy_of(source)) == digest
    assert [path.name for path in root.iterdir()] == [digest]
    folder = find_artifact(root, digest)
    assert (folder / "model.txt").read_text() == "good"


def test_the_digest_depends_on_every_name_and_content(source: Path) -> None:
    digests = [digest_artifact(source)]
    (source / "model.txt").write_text("other")
    digests.append(digest_artifact(source))
    (source / "model.txt").rename(source / "model2.txt")
    digests.append(digest_artifact(source))
    (source / "code" / "more.py").write_text("")
    digests.append(digest_artifact(source))
    assert len(set(digests)) == 4


@pytest.mark.parametrize("change", ["write", "add", "remove"])
def test_an_artifact_that_was_changed_is_refused(tmp_path: Path, source: Path, change: str) -> None:
    digest = store_artifact(tmp_path / "root", copy_of(source))
    file = tmp_path / "root" / digest / "code" / "tiny_model.py"
    if change == "write":
        file.write_text(file.read_text() + "#")
    elif change == "add":
        file.with_name("more.py").write_text("")
    else:
        file.unlink()
    with pytest.raises(Refused, match="a file of its artefact was changed"):
        find_artifact(tmp_path / "root", digest)


def test_an_artifact_that_was_changed_is_replaced_by_the_next_download(tmp_path: Path, source: Path) -> None:
    root = tmp_path / "root"
    digest = store_artifact(root, copy_of(source))
    (root / digest / "model.txt").write_text("changed")
    assert not is_intact(root, digest)
    assert store_artifact(root, copy_of(source)) == digest
    assert is_intact(root, digest)
    assert [path.name for path in root.iterdir()] == [digest]


def test_an_artifact_that_is_not_here_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="is not on this machine"):
        find_artifact(tmp_path, "0" * 32)


def test_a_link_in_an_artifact_is_refused(tmp_path: Path, source: Path) -> None:
    (source / "link").symlink_to("/etc/passwd")
    with pytest.raises(Refused, match="link: its artefact holds something that is not a plain file"):
        store_artifact(
            tmp_path / "root", lambda folder: Path(shutil.copytree(source, folder / "a", symlinks=True))
        )
    assert list((tmp_path / "root").iterdir()) == []


def test_a_download_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> Path:
        (folder / "half").write_text("x")
        raise Unavailable("MLflow is away")

    with pytest.raises(Unavailable):
        store_artifact(tmp_path / "root", fail)
    assert list((tmp_path / "root").iterdir()) == []


def test_what_is_not_needed_is_removed(tmp_path: Path, source: Path) -> None:
    root = tmp_path / "root"
    digest = store_artifact(root, copy_of(source))
    (source / "model.txt").write_text("other")
    other = store_artifact(root, copy_of(source))
    (root / ".draft").mkdir()
    remove_artifacts(root, {other})
    assert [path.name for path in root.iterdir()] == [other]
    assert digest != other
