"""The registry: versions, aliases and bundles in MLflow, also after kills, moves and tampering."""

import errno
import os
import shutil
import signal
import socket
import socketserver
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from tests.faults.run import UNSHARE, may_mount

from headrace import registry
from headrace.config.settings import Settings, load_settings
from headrace.kernel import faults
from headrace.kernel.errors import CallError, Refused, Unavailable
from headrace.kernel.properties import BUNDLE_DIGEST
from headrace.registry.client import MlflowConnection

REGISTER = """
import sys
import threading
from pathlib import Path
from headrace import registry
from headrace.config.settings import load_settings
opened = registry.open(load_settings(Path(sys.argv[1])))
opened.register("purchase", Path(sys.argv[2]), metrics={"roc_auc": 0.8}, params={}, tags={})
"""


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    (folder / "model").mkdir(parents=True)
    (folder / "plan.json").write_text("{}")
    (folder / "model" / "model.ubj").write_bytes(b"\x00\x01")
    return folder


@pytest.mark.parametrize("name", ["moved", "%41 ü#?[a]{{x}}"])
@pytest.mark.parametrize("copied", [True, False])
def test_a_store_that_was_moved_or_copied_has_its_own_files(
    settings: Settings, bundle: Path, name: str, copied: bool
) -> None:
    registry.open(settings).register("purchase", bundle, metrics={}, params={}, tags={})
    there = settings.root.with_name(name)
    (shutil.copytree if copied else shutil.move)(settings.root, there)
    before = {path for path in settings.root.rglob("*") if path.is_file()}
    moved = load_settings(there)
    opened = registry.open(moved)
    shutil.rmtree(opened.bundle_folder("purchase", 1))
    assert (opened.bundle("purchase", 1) / "plan.json").read_text() == "{}"
    (bundle / "plan.json").write_text("{ }")
    version = opened.register("purchase", bundle, metrics={}, params={}, tags={})
    source = opened.client.get_model_version("purchase", str(version)).source
    assert source.startswith(moved.place("mlflow", "artifacts").as_uri())
    with sqlite3.connect(moved.place("mlflow", "mlflow.db")) as db:
        text = "\n".join(db.iterdump())
    db.close()
    assert f"{settings.root}/" not in text
    assert {path for path in settings.root.rglob("*") if path.is_file()} == before
    assert sorted(path.name for path in settings.root.parent.iterdir() if path != settings.root) == sorted(
        ["bundle", name]
    )


def test_an_alias_that_is_set_without_mlflow_is_read_by_mlflow(settings: Settings, bundle: Path) -> None:
    opened = registry.open(settings)
    opened.register("purchase", bundle, metrics={}, params={}, tags={})
    (bundle / "plan.json").write_text("{ }")
    opened.register("purchase", bundle, metrics={}, params={}, tags={})
    fresh = registry.open(settings)  # it has not loaded MLflow
    for version in (1, 2):
        fresh.set_alias("purchase", "champion", version)
        assert int(opened.client.get_model_version_by_alias("purchase", "champion").version) == version
    opened.client.set_registered_model_alias("purchase", "champion", "1")
    assert opened.client.get_registered_model("purchase").aliases == {"champion": 1}
    fresh.set_alias("purchase", "challenger", 2)
    fresh.delete_alias("purchase", "champion")
    fresh.delete_alias("purchase", "champion")
    assert opened.client.get_registered_model("purchase").aliases == {"challenger": 2}
    assert fresh._mlflow.unopened_file is not None
    for other in (fresh, opened):
        with pytest.raises(CallError, match="no version 3"):
            other.set_alias("purchase", "champion", 3)


def test_a_version_is_found_by_number_and_alias_and_has_its_bundle(settings: Settings, bundle: Path) -> None:
    opened = registry.open(settings)
    first = opened.register(
        "purchase", bundle, metrics={"roc_auc": 0.8}, params={"depth": 3}, tags={"headrace.code": "abc"}
    )
    (bundle / "plan.json").write_text("{ }")
    second = opened.register("purchase", bundle, metrics={}, params={}, tags={}, parent_run=None)
    assert (first, second) == (1, 2)
    opened.set_alias("purchase", "champion", first)

    champion = opened.version("purchase", "champion")
    assert (champion.version, champion.aliases) == (1, ("champion",))
    assert champion.metrics == {"roc_auc": 0.8}
    assert champion.params == {"depth": "3"}
    assert champion.tags["headrace.code"] == "abc"
    assert [version.version for version in opened.versions("purchase")] == [2, 1]
    assert (opened.bundle("purchase", 1) / "plan.json").read_text() == "{}"
    assert opened.versions("nothing") == []
    fresh = registry.open(settings)  # it has not loaded MLflow: it reads the tables of the store
    assert fresh.version("purchase", "champion") == champion
    assert fresh.version("purchase", 2) == opened.version("purchase", "2")
    for versions in (opened, fresh):
        for ref in ("nobody", 7, 2**31, 10**20, str(10**20)):
            with pytest.raises(CallError, match=f"no version '?{ref}'?\n") as missing:
                versions.version("purchase", ref)
            assert missing.value.remedy == "Its versions: 1, 2; its aliases: champion"
        with pytest.raises(CallError, match='model "nobody\'s" has no version 1\n') as missing:
            versions.version("nobody's", 1)
        assert missing.value.remedy == "It has none yet. Train one: headrace build"
    # MLflow leaves nothing in the working directory.
    assert sorted(os.listdir(settings.root)) == [".headrace", "headrace.toml", "shop"]

    again = opened.register("purchase", bundle, metrics={}, params={}, tags={})
    assert again == 2, "the same bundle is the same version"

    shutil.rmtree(opened.bundle_folder("purchase", 1))
    assert (opened.bundle("purchase", 1) / "plan.json").read_text() == "{}", "fetched again from MLflow"
    shutil.rmtree(opened.bundle_folder("purchase", 1))
    assert (opened.bundle("purchase", 1, apart=True) / "plan.json").read_text() == "{}"
    with pytest.raises(CallError, match="no version"):
        fresh.bundle("purchase", 7, apart=True)

    (opened.bundle_folder("purchase", 1) / "plan.json").write_text("changed")
    with pytest.raises(Refused, match=r"'plan.json' was changed"):
        opened.bundle("purchase", 1)

    # An artifact changed behind MLflow's back is not taken either.
    shutil.rmtree(opened.bundle_folder("purchase", 1))
    stored = settings.place("mlflow", "artifacts", champion.run_id, "artifacts", "bundle", "plan.json")
    stored.write_text("changed")
    with pytest.raises(Refused, match=r"'plan.json' was changed"):
        opened.bundle("purchase", 1)
    assert not opened.bundle_folder("purchase", 1).exists()


def test_mlflow_writes_no_address_into_the_result_of_a_command(settings: Settings) -> None:
    registry.open(settings).client  # noqa: B018 - it loads MLflow
    from mlflow.environment_variables import MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT

    assert MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT.get()


def test_a_bundle_of_another_key_needs_trust(
    settings: Settings, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = registry.open(settings)
    version = opened.register("purchase", bundle, metrics={}, params={}, tags={})
    monkeypatch.setenv("HEADRACE_SIGNING_KEY", "another")
    with pytest.raises(Refused, match="another key"):
        opened.bundle("purchase", version)
    trusting = settings.with_values(trust=(f"purchase@{version}",))
    registry.open(trusting).bundle("purchase", version)


POINTS = [
    "registry.before_database",
    "registry.before_files",
    "registry.before_version",
    "registry.after_version",
    "registry.before_place",
]


@pytest.mark.parametrize("point", POINTS)
def test_a_registration_killed_anywhere_makes_one_version(settings: Settings, bundle: Path, point: str) -> None:
    command = [sys.executable, "-c", REGISTER, str(settings.root), str(bundle)]
    killed = subprocess.run(command, env={**os.environ, faults.VARIABLE: point}, timeout=300, check=False)
    assert killed.returncode == -signal.SIGKILL

    opened = registry.open(settings)
    assert opened.register("purchase", bundle, metrics={"roc_auc": 0.8}, params={}, tags={}) == 1
    assert [version.version for version in opened.versions("purchase")] == [1]
    assert opened.version("purchase", 1).metrics == {"roc_auc": 0.8}
    runs = opened.client.search_runs([opened.experiment])
    assert [run.data.tags[BUNDLE_DIGEST] for run in runs] == [opened.version("purchase", 1).tags[BUNDLE_DIGEST]]
    assert runs[0].info.status == "FINISHED"
    place = opened.bundle("purchase", 1)
    assert sorted(path.name for path in place.parent.iterdir()) == ["1"], "no half copy is left"


def test_a_store_that_cannot_be_opened_is_unavailable(settings: Settings, bundle: Path) -> None:
    wrong = settings.with_values(mlflow=f"sqlite:///{settings.root}/no/such/folder/m.db")
    (settings.root / "no").write_text("a file where a folder is needed")
    opened = registry.open(wrong)
    with pytest.raises(Unavailable, match="MLflow"):
        opened.register("purchase", bundle, metrics={}, params={}, tags={})


def test_a_full_disk_is_named_with_the_place_and_a_remedy(settings):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/data/mlflow/artifacts/model")
    with pytest.raises(Unavailable) as refused, MlflowConnection(settings).translate_errors():
        raise full
    assert refused.value.what == "MLflow cannot read or write its files: No space left on device"
    assert refused.value.where == "/data/mlflow/artifacts/model"
    assert "Check that the disk has room" in refused.value.remedy


ON_A_SMALL_DISK = """
import subprocess, sys
from pathlib import Path
from headrace import registry
from headrace.config.settings import load_settings
from headrace.kernel.errors import Unavailable

settings = load_settings(Path(sys.argv[1]))
place = settings.place("mlflow")
place.mkdir(parents=True, mode=0o700)
kb = 300
subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kb}k,mode=0700", "headrace", place], check=True)
opened = registry.open(settings)
while True:
    try:
        print(opened.register("purchase", Path(sys.argv[2]), metrics={"auc": 0.8}, params={}, tags={}))
        break
    except Unavailable as error:
        print(kb, error.what, error.where, error.remedy, sep="|")
        kb += 100
        subprocess.run(["mount", "-o", f"remount,size={kb}k", place], check=True)
print([version.version for version in opened.versions("purchase")])
print([run.info.status for run in opened.client.search_runs([opened.experiment])])
print(sorted(path.name for path in opened.bundle("purchase", 1).parent.iterdir()))
print(sorted(path.name for path in place.glob(".*")))
"""


def test_on_a_disk_that_is_full_again_and_again_one_version_is_registered(
    settings: Settings, bundle: Path
) -> None:
    """A real disk, of 300 kB and then 100 kB more after each refusal."""
    if not may_mount():
        pytest.skip("this user may not mount a disk")
    (bundle / "model" / "large.bin").write_bytes(os.urandom(400_000))
    command = [*UNSHARE, sys.executable, "-W", "ignore", "-c", ON_A_SMALL_DISK, str(settings.root), str(bundle)]
    ended = subprocess.run(command, timeout=300, check=False, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    *refused, version, versions, runs, copies, drafts = ended.stdout.splitlines()
    assert len(refused) > 5
    for line in refused:
        _, what, where, remedy = line.split("|")
        assert "disk is full" in what or "No space left on device" in what, line
        assert str(settings.place("mlflow")) in where, line
        assert "disk" in remedy
    assert (version, versions, runs, copies, drafts) == ("1", "[1]", "['FINISHED']", "['1']", "[]")


class CountRequests(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        self.server.requests += 1


@pytest.mark.parametrize("answers", [False, True])
def test_a_server_that_does_not_answer_is_unavailable_at_once(settings, answers):
    """A port where nothing listens, and one that accepts connections and does not answer."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), CountRequests) as server:
        server.requests = 0
        url = f"http://127.0.0.1:{server.server_address[1]}"
        if answers:
            threading.Thread(target=server.serve_forever, daemon=True).start()
        else:
            server.server_close()
        away = settings.with_values(mlflow=url)
        with pytest.raises(Unavailable, match="MLflow failed") as error:
            registry.open(away).client  # noqa: B018  it connects
        assert url in error.value.where
        if answers:
            server.shutdown()
            assert server.requests == 1  # MLflow itself, which would try again and again, was not started


def test_a_database_that_does_not_answer_is_unavailable_after_a_time_limit(settings, monkeypatch):
    monkeypatch.setattr("headrace.registry.client._ANSWER_SECONDS", 2.0)  # psycopg's shortest
    with socket.create_server(("127.0.0.1", 0)) as silent:
        away = settings.with_values(mlflow=f"postgresql+psycopg://anna@127.0.0.1:{silent.getsockname()[1]}/m")
        with pytest.raises(Unavailable, match=r"MLflow failed: .*timeout"):
            registry.open(away).client  # noqa: B018  it connects
