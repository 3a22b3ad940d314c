"""Prepared models answer as the model of the bundle, and no pickle that the key has not signed is read."""

from __future__ import annotations

import os
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from skops.io import dumps
from tests.serving.small_project import make_project, plan_of, put_features, put_release, put_trained

from headrace import registry
from headrace.config.settings import Settings
from headrace.declare.trainers import Sklearn
from headrace.features.values.matrix import Encoding
from headrace.registry.bundle import seal
from headrace.registry.signing import signing_key
from headrace.serving.models import Models
from headrace.serving.prepared import load_prepared, remove_unneeded
from headrace.serving.release import Arm
from headrace.training.trainers.folder import load_model, save_model
from headrace.training.trainers.port import ModelMeta
from headrace.training.trainers.sklearn import MODEL, SklearnTrainer

ROWS = np.random.default_rng(1).normal(size=(200, 3)).astype(np.float32)
LABELS = (ROWS[:, 0] + ROWS[:, 1] > 0).astype(int)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return make_project(tmp_path / "project")


def put_bundle(settings: Settings, number: int, estimator: Any) -> Path:
    bundle = registry.open(settings).bundle_folder("purchase", number)
    written = {"takes_frame": False, "version": version("scikit-learn")}
    files = {MODEL: dumps(estimator), "sklearn.json": msgspec.json.encode(written)}
    meta = ModelMeta(trainer="sklearn", encoding=Encoding(("a", "b", "c")))
    save_model(bundle / "model", files, meta)
    seal(bundle, signing_key(settings))
    return bundle


def fail(*_arguments: object) -> NoReturn:
    raise AssertionError("it was loaded, or what is not signed was unpickled")


class Bomb:
    def __reduce__(self) -> Any:
        return fail, ()


def test_the_second_load_is_from_the_copy_and_answers_with_the_same_bits(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    forest = RandomForestClassifier(5, random_state=1).fit(ROWS, LABELS)
    bundle, opened = put_bundle(settings, 1, forest), registry.open(settings)
    expected = load_model(bundle / "model").predict(ROWS)
    np.testing.assert_array_equal(load_prepared(opened, bundle).predict(ROWS), expected)
    monkeypatch.setattr(SklearnTrainer, "load", fail)
    np.testing.assert_array_equal(load_prepared(opened, bundle).predict(ROWS), expected)
    assert [path.stat().st_mode & 0o777 for path in settings.place("prepared").iterdir()] == [0o600]


def test_a_copy_that_the_key_has_not_signed_is_not_unpickled(settings: Settings) -> None:
    """It was changed, it is another version's, or another key signed it. Then it is made again."""
    opened = registry.open(settings)
    first, second = (
        put_bundle(settings, number, LogisticRegression().fit(ROWS, labels))
        for number, labels in ((1, LABELS), (2, 1 - LABELS))
    )
    expected = load_prepared(opened, second).predict(ROWS)
    (file,) = settings.place("prepared").iterdir()
    good = file.read_bytes()
    load_prepared(opened, first)
    (other,) = set(settings.place("prepared").iterdir()) - {file}
    bomb = pickle.dumps(Bomb())
    for content in (b"", bomb, good[:32] + bomb, bytes(32) + bomb, good[:-1], other.read_bytes()):
        file.write_bytes(content)
        np.testing.assert_array_equal(load_prepared(opened, second).predict(ROWS), expected)
        assert file.read_bytes() == good


def test_a_copy_that_cannot_be_unpickled_is_made_again(settings: Settings) -> None:
    bundle = put_bundle(settings, 1, LogisticRegression().fit(ROWS, LABELS))
    opened = registry.open(settings)
    expected = load_prepared(opened, bundle).predict(ROWS)
    (file,) = settings.place("prepared").iterdir()
    good = file.read_bytes()
    opened.signed_files.write(file.name, b"cheadrace.serving.prepared\nno_such_class\n.")
    np.testing.assert_array_equal(load_prepared(opened, bundle).predict(ROWS), expected)
    assert file.read_bytes() == good


def test_a_folder_that_cannot_be_written_only_costs_time(settings: Settings) -> None:
    bundle = put_bundle(settings, 1, LogisticRegression().fit(ROWS, LABELS))
    settings.place("prepared").write_text("a file")
    opened = registry.open(settings)
    np.testing.assert_array_equal(
        load_prepared(opened, bundle).predict(ROWS), load_model(bundle / "model").predict(ROWS)
    )


def test_a_replica_removes_what_neither_its_releases_nor_anybody_else_needs(settings: Settings) -> None:
    """The release in force needs its arms, and the release that a rollback would restore needs its own."""
    put_features(settings, plan_of(), {7: (9.5, 190)})
    for number in range(1, 6):
        put_trained(settings, Sklearn(LogisticRegression(C=number)), number)
    names = {}
    folder = settings.place("prepared")
    for number in range(1, 6):
        load_prepared(registry.open(settings), registry.open(settings).bundle_folder("purchase", number))
        (names[number],) = {path.name for path in folder.iterdir()} - set(names.values())
    digest, _, libraries = names[5].partition("-")
    for other in ("0" * len(digest) + f"-{libraries}", f"{digest}-other-libraries", "fresh"):
        (folder / other).write_bytes(b"of another project, or of other libraries")
    for path in folder.iterdir():
        os.utime(path, (0, 0) if path.name != "fresh" else None)
    put_release(settings, Arm(1))
    put_release(settings, Arm(2), Arm(3, shadow=True, name="shadow"))
    put_release(settings, Arm(4, 0.5), Arm(5, 0.5, name="challenger"))
    with closing(Models(settings)) as models:
        assert models.failed == {}
    assert {path.name for path in folder.iterdir()} == {*(names[number] for number in (2, 3, 4, 5)), "fresh"}


def test_a_copy_that_was_used_this_week_is_kept(settings: Settings) -> None:
    bundle, opened = put_bundle(settings, 1, LogisticRegression().fit(ROWS, LABELS)), registry.open(settings)
    load_prepared(opened, bundle)
    (copy,) = settings.place("prepared").iterdir()
    os.utime(copy, (0, 0))
    load_prepared(opened, bundle)
    remove_unneeded(opened, [])
    assert copy.exists()
    os.utime(copy, (0, 0))
    remove_unneeded(opened, [("purchase", 1), ("purchase", 2), ("absent", 1)])
    assert copy.exists()
    remove_unneeded(opened, [("purchase", 2)])
    assert not copy.exists()


def test_copies_are_loaded_while_another_process_removes_them(settings: Settings) -> None:
    bundle, opened = put_bundle(settings, 1, LogisticRegression().fit(ROWS, LABELS)), registry.open(settings)
    expected, stop = load_model(bundle / "model").predict(ROWS), threading.Event()

    def remove() -> None:
        while not stop.is_set():
            opened.signed_files.remove_unused((), -60.0)  # what was used up to a minute from now

    with ThreadPoolExecutor(2) as pool:
        ends = [pool.submit(remove) for _ in range(2)]
        try:
            for _ in range(40):
                np.testing.assert_array_equal(load_prepared(opened, bundle).predict(ROWS), expected)
        finally:
            stop.set()
    assert [end.result() for end in ends] == [None, None]
