"""deploy: what is planned, refused, kept and removed, on a real MLflow and with real processes of models."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.flows.processes import descendants
from tests.serving.mlflow_models.artifact import write_artifact
from tests.until import until

from headrace.config.settings import Settings, load_settings
from headrace.flows.models.deploy import DeployReport, deploy, roll_back_models
from headrace.kernel.errors import CallError, ProjectError, Unavailable
from headrace.serving.mlflow_models import model_set, process
from headrace.serving.mlflow_models.artifacts import is_intact
from headrace.serving.mlflow_models.environments import ensure_environment
from headrace.serving.mlflow_models.folders import artifacts_folder, environments_folder
from headrace.serving.mlflow_models.needs import Needs, read_needs
from headrace.workspace import Workspace

PROJECT = '[project]\nname = "people"\n[profile.local]\nserving = "ray_serve"\n'
ALL = "models:\n  - name: '*'\n"


README = Path(__file__).parents[2] / "examples" / "multi_python" / "README.md"
SHOWN = dict(re.findall(r"^\| (.+?) \| `(.+)` \|$", README.read_text(), re.MULTILINE))
"""Case → the message that the README of multi_python shows for it."""


def is_shown(case: str, message: str) -> bool:
    """Whether the README shows this message; `...` in it stands for any text."""
    pattern = ".*".join(map(re.escape, SHOWN[case].split("...")))
    return re.search(f"{pattern}$", message, re.DOTALL) is not None


class Place:
    """A project, and the MLflow with what people registered.

    Attributes:
        root: the project's folder.
        settings: its settings.
    """

    def __init__(self, root: Path, template: Path, environment: Path) -> None:
        self.root = root
        (root / "people").mkdir(parents=True)
        (root / "people" / "__init__.py").touch()
        (root / "headrace.toml").write_text(PROJECT)
        self.settings: Settings = load_settings(root)
        store = self.settings.make_state() / "mlflow"
        store.mkdir()
        shutil.copy(template, store / "mlflow.db")
        folder = environments_folder(self.settings) / environment.name
        folder.mkdir(parents=True)
        for path in environment.iterdir():  # made once for all tests
            (folder / path.name).symlink_to(path)
        self._count = 0

    @property
    def client(self) -> Any:
        from mlflow import MlflowClient

        return MlflowClient(self.settings.registry.mlflow_url, self.settings.registry.mlflow_url)

    def register(
        self, name: str, tags: dict[str, str] | None = None, source: str | None = None, **options: Any
    ) -> Path:
        """Registers the next version of a model; returns the folder of its artefact."""
        self._count += 1
        folder = write_artifact(self.root.parent / "artifacts" / f"{name} {self._count}", **options)
        client = self.client
        if not client.search_registered_models(f"name = '{name}'"):
            client.create_registered_model(name)
        client.create_model_version(name, source or str(folder), tags=tags)
        return folder

    def deploy(self, text: str = ALL, **options: bool) -> DeployReport:
        file = self.root / "models.yaml"
        file.write_text(text)
        with Workspace(self.settings) as workspace:
            return deploy(workspace, file, **options)

    def plan(self, text: str = ALL, **options: bool) -> dict[str, str]:
        """Model → what would be done with it."""
        report = self.deploy(text, dry_run=True, **options)
        return {model.name: f"{model.action} {model.version} {model.what}".strip() for model in report.models}

    def roll_back(self) -> DeployReport:
        with Workspace(self.settings) as workspace:
            return roll_back_models(workspace)

    @property
    def in_force(self) -> dict[str, int]:
        """Name → version of the models in force."""
        with Workspace(self.settings) as workspace:
            sets = model_set.history(workspace.log)
        return {model.name: model.version for model in sets[-1].models} if sets else {}

    @property
    def set_count(self) -> int:
        with Workspace(self.settings) as workspace:
            return len(model_set.history(workspace.log))

    def stored(self) -> set[str]:
        """The folders of artefacts."""
        return {path.name for path in artifacts_folder(self.settings).glob("*")}


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The environment that the artefacts of these tests need."""
    folder = tmp_path_factory.mktemp("environment")
    needs = read_needs(write_artifact(folder / "artifact"))
    return ensure_environment(folder / "environments", needs).parents[1]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The database of an empty MLflow, which takes seconds to make."""
    from mlflow import MlflowClient

    database = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{database}", f"sqlite:///{database}").search_registered_models()
    return database


@pytest.fixture
def place(tmp_path: Path, template: Path, environment: Path) -> Iterator[Place]:
    yield Place(tmp_path / "project", template, environment)
    assert descendants(os.getpid()) == [] or not [
        pid for pid in descendants(os.getpid()) if b"worker.py" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]


def test_models_are_selected_by_name_pattern_alias_and_version(place: Place) -> None:
    for name in ("iris_a", "iris_a", "iris_a", "iris_b", "wine"):
        place.register(name)
    place.client.set_registered_model_alias("iris_a", "production", "2")
    assert place.plan() == {"iris_a": "new 3", "iris_b": "new 1", "wine": "new 1"}
    assert place.plan("models:\n  - name: iris_?\n") == {"iris_a": "new 3", "iris_b": "new 1"}
    assert place.plan("models:\n  - name: iris_[b-z]\n  - name: wine\n") == {
        "iris_b": "new 1",
        "wine": "new 1",
    }
    assert place.plan("models:\n  - name: iris_a\n    alias: production\n") == {"iris_a": "new 2"}
    # a pattern with an alias selects those that have it
    assert place.plan("models:\n  - name: '*'\n    alias: production\n") == {"iris_a": "new 2"}
    assert place.plan("models:\n  - name: iris_a\n    version: 1\n") == {"iris_a": "new 1"}
    # of several entries that select a model, the first counts
    first = "models:\n  - name: iris_a\n    version: 1\n  - name: iris_*\n"
    assert place.plan(first) == {"iris_a": "new 1", "iris_b": "new 1"}
    assert place.plan("models:\n" + "".join(f"  - name: {name}\n" for name in ("none", "n*"))) == {
        "none": "refused None the registry has no version of this model",
        "n*": "refused None no registered model matches this pattern",
    }
    others = (
        "models:\n  - name: iris_a\n    version: 9\n  - name: iris_b\n    alias: production\n  - name: wine\n"
    )
    assert place.plan(others) == {
        "iris_a": "refused None the registry has no version 9 of this model; its versions: 1 to 3",
        "iris_b": "refused None this model has no alias 'production' in the registry; its aliases: none",
        "wine": "new 1",
    }


def test_a_plan_does_nothing_and_is_carried_out_as_it_was_printed(place: Place) -> None:
    place.register("one")
    place.register("two", {"ray.num_replicas": "x"})
    planned = place.deploy(dry_run=True)
    assert (place.set_count, place.stored()) == (0, set())
    report = place.deploy()
    assert report.models == planned.models
    assert [(model.name, model.action) for model in report.models] == [("one", "new"), ("two", "refused")]
    assert place.in_force == {"one": 1}
    again = place.deploy()
    assert [model.action for model in again.models] == ["unchanged", "refused"]
    assert (again.is_recorded, place.set_count) == (False, 1)


def test_models_are_removed_by_prune_alone(place: Place) -> None:
    place.register("a")
    place.register("b", content="good b")
    place.deploy()
    only_a = "models:\n  - name: a\n"
    kept = {"a": "unchanged 1", "b": "kept 1 the file does not select it; --prune removes it"}
    assert place.plan(only_a) == kept
    place.deploy(only_a)
    assert place.in_force == {"a": 1, "b": 1}
    assert place.plan(only_a, prune=True) == {"a": "unchanged 1", "b": "removed 1"}
    place.deploy(only_a, prune=True)
    assert place.in_force == {"a": 1}
    assert len(place.stored()) == 2  # a rollback needs the artefact of the set before
    assert {model.name: model.action for model in place.roll_back().models} == {"a": "unchanged", "b": "new"}
    assert place.in_force == {"a": 1, "b": 1}
    with pytest.raises(CallError, match="there is no earlier set of models"):
        place.roll_back()


def test_lineage_has_a_job_for_each_model_that_a_deployment_changes(place: Place) -> None:
    place.register("a")
    place.register("b")
    place.deploy()
    place.register("b", content="good b")
    place.deploy()
    with Workspace(place.settings) as workspace:
        store = workspace.lineage
        events = [msgspec.json.decode(body) for _, body in store.unsent("http://127.0.0.1:9", 100)]
        runs = [run.job for run in store.runs()]
    done = [event for event in events if event["eventType"] == "COMPLETE"]
    names = [
        (event["job"]["name"], [[d["name"], d["facets"]["version"]["datasetVersion"]] for d in event[side]])
        for event in done
        for side in ("inputs", "outputs")
    ]
    assert names == [
        ("deploy.a", [["model/a", "1"]]),
        ("deploy.a", [["endpoint/a", "1"]]),
        ("deploy.b", [["model/b", "1"]]),
        ("deploy.b", [["endpoint/b", "1"]]),
        ("deploy.b", [["model/b", "2"]]),
        ("deploy.b", [["endpoint/b", "2"]]),
    ]
    assert sorted(runs) == ["deploy a", "deploy b", "deploy b", "deployment", "deployment"]


def test_what_neither_set_needs_is_removed(place: Place, environment: Path) -> None:
    unneeded = environments_folder(place.settings) / Needs("3.9.1", ["six"]).digest
    unneeded.mkdir()
    folders = []
    for number in range(3):
        place.register("b", content=f"good {number}")
        place.deploy()
        folders.append(place.stored())
    assert [len(names) for names in folders] == [1, 2, 2]
    assert folders[0] - folders[2]  # that of the first version of b
    place.register("c", content="broken")
    assert not place.deploy().is_recorded
    assert place.stored() == folders[2]  # a refused model leaves nothing
    assert {path.name for path in environments_folder(place.settings).iterdir() if path.is_dir()} == {
        environment.name
    }


def test_a_model_with_another_name_in_its_paths_is_served_under_both_until_the_old_is_pruned(
    place: Place,
) -> None:
    place.register("iris", {"ray.name": "old"})
    place.deploy()
    place.register("iris", {"ray.name": "fresh"})
    place.deploy()
    assert place.in_force == {"fresh": 2, "old": 1}
    assert place.plan() == {
        "fresh": "unchanged 2",
        "old": "kept 1 model iris is served as fresh from now on; --prune removes it",
    }
    place.deploy(prune=True)
    assert place.in_force == {"fresh": 2}


def test_a_name_belongs_to_one_model(place: Place) -> None:
    place.register("a", {"ray.name": "same"})
    place.register("b", {"ray.name": "same"})
    place.register("c", {"ray.name": "predict"})
    place.register("d", {"ray.name": "healthz"})
    assert place.plan() == {
        "same": "new 1",
        "b": "refused 1 the name 'same' is taken by model a",
        "c": "refused 1 the name 'predict' is taken by a path of the endpoint",
        "d": "refused 1 the name 'healthz' is taken by a path of the endpoint",
    }


def test_tags_of_the_version_count_more_than_those_of_the_model(place: Place) -> None:
    place.register("a", {"ray.num_replicas": "3"})
    for tag, value in {
        "num_replicas": "2",
        "user_config.max_batch_size": "8",
        "runtime_env.env_vars": '{"A": "1"}',
    }.items():
        place.client.set_registered_model_tag("a", f"ray.{tag}", value)
    place.deploy()
    with Workspace(place.settings) as workspace:
        (model,) = model_set.history(workspace.log)[-1].models
    options = model.options
    assert (options.num_replicas, options.max_batch_size, options.env_vars) == (3, 8, {"A": "1"})
    place.client.delete_model_version_tag("a", "1", "ray.num_replicas")
    for tag, value in {"autoscaling_config.max_replicas": "4", "runtime_env.env_vars": "{}"}.items():
        place.client.set_model_version_tag("a", "1", f"ray.{tag}", value)
    place.client.delete_registered_model_tag("a", "ray.num_replicas")
    assert place.plan() == {
        "a": (
            "changed 1 num_replicas 3 → 1; autoscaling none → min_replicas 1, max_replicas 4,"
            " target_ongoing_requests 2; env_vars"
        )
    }


REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "tiny": (
        {"content": "broken"},
        "model tiny does not start (exit 1): RuntimeError: the model file is broken",
    ),
    "killed": ({"content": "die"}, "model killed does not start (signal 9): it was killed"),
    "greedy": ({"content": "allocate"}, "model greedy does not start (exit 1): MemoryError"),
    "writer": ({"content": "write"}, "the model changes files of its artefact when it is loaded"),
    "absent": ({"requirements": ("mlflow-skinny", "catboost==99")}, "there is no version of catboost==99"),
    "ancient": ({"python": "3.4.10"}, "Python 3.4 is not on this machine. Install it: uv python install 3.4"),
    "iris": (
        {"tags": {"ray.num_replicas": "x"}},
        "model iris: tag ray.num_replicas is 'x'; it should be a whole number from 1 to 1,000",
    ),
    "cube": (
        {"inputs": [{"type": "tensor", "tensor-spec": {"dtype": "float64", "shape": [-1, 2, 2]}}]},
        "the model takes a tensor of float64 with shape [-1, 2, 2]. Log it with the signature of a DataFrame",
    ),
    "far": ({"source": "s3://bucket/model"}, "s3://bucket/model: its artefact cannot be downloaded: "),
    "gone": ({"source": "/nowhere/model"}, "/nowhere/model: its artefact cannot be downloaded: "),
}
"""Model → how it is registered, and why it is refused."""


def test_a_model_that_cannot_be_served_is_refused_alone(place: Place) -> None:
    for name, (options, _) in REFUSALS.items():
        place.register(name, **options)
    place.register("loud", content="print")
    place.register("good")
    report = place.deploy()
    reasons = {model.name: model.what for model in report.models if model.action == "refused"}
    assert reasons.keys() == REFUSALS.keys()
    for name, (_, reason) in REFUSALS.items():
        assert reason in reasons[name], name
    for name, case in {
        "tiny": "a model file that is broken",
        "writer": "a model that writes into its artefact",
        "absent": "requirements that cannot be met",
        "ancient": "a Python that is not here",
        "iris": "a wrong tag",
        "far": "a store of artefacts that is away",
    }.items():
        assert is_shown(case, reasons[name]), (case, reasons[name])
    assert not report.is_complete
    assert place.in_force == {"good": 1, "loud": 1}


BROKEN_FILES: dict[str, tuple[str, str | None, str]] = {
    "environment": ("python_env.yaml", None, "its artefact lacks python_env.yaml"),
    "list": ("MLmodel", "- a\n", "MLmodel: it is not a mapping"),
    "text": ("MLmodel", "flavors: {python_function: {}}\nsignature: text\n", "MLmodel: signature: it is not"),
    "cut": ("MLmodel", "flavors: {python", "MLmodel: it is not valid YAML"),
    "bare": ("requirements.txt", "six\n", "its requirements lack mlflow, which loads the model"),
    "link": ("model.txt", "->", "its artefact cannot be downloaded"),
}
"""Model → a file of its artefact, its content, and why the model is refused."""


def test_a_model_whose_artefact_is_broken_is_refused_and_its_version_in_force_stays(place: Place) -> None:
    in_force = ("list", "link", "good")
    for name in in_force:
        place.register(name)  # with equal files, prepared at the same time
    place.deploy()
    assert len(place.stored()) == 1
    for name, (file, content, _) in BROKEN_FILES.items():
        path = place.register(name) / file
        path.unlink()
        if content == "->":
            path.symlink_to("/etc/hostname")
        elif content is not None:
            path.write_text(content)
    place.register("good")
    plan = place.plan()
    for name, (_, _, reason) in BROKEN_FILES.items():
        assert plan[name].startswith("refused "), plan[name]
        assert reason in plan[name]
    assert plan["good"] == "changed 2 version 1 → 2"
    assert is_shown("an artefact without python_env.yaml", plan["environment"])
    place.deploy(prune=True)
    assert place.in_force == {"list": 1, "link": 1, "good": 2}


def test_a_model_that_hangs_at_load_is_refused(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_LONGEST_START", 1.0)
    place.register("slow", content="hang")
    (slow,) = place.deploy().models
    assert (slow.action, slow.what.split(":")[0]) == ("refused", "model slow was not ready within 1 s")
    assert is_shown("a model that hangs when it is loaded", slow.what)


def test_a_damaged_artefact_is_stored_again(place: Place) -> None:
    place.register("a")
    place.deploy()
    (digest,) = place.stored()
    folder = artifacts_folder(place.settings) / digest
    again = {"a": "unchanged 1 its artefact is stored again"}
    (folder / "model.txt").write_text("other")
    assert place.plan() == again
    shutil.rmtree(folder)
    assert place.plan() == again
    place.deploy()
    assert is_intact(folder.parent, digest)
    assert place.plan() == {"a": "unchanged 1"}


DEPLOY = """
import os, sys
from pathlib import Path
from headrace.config.settings import load_settings
from headrace.flows.models.deploy import deploy
from headrace.workspace import Workspace
import headrace.registry.other_models, mlflow
for line in sys.stdin:
    if os.fork() == 0:
        os.environ["HEADRACE_FAULT"] = line.strip()
        root = Path(sys.argv[1])
        with Workspace(load_settings(root)) as workspace:
            deploy(workspace, root / "models.yaml")
        os._exit(0)
    print(os.wait()[1], flush=True)
"""
POINTS = {
    "artifacts.after_place": False,
    "deploy.before_record": False,
    "deploy.after_record": True,
}
"""Where a deployment is killed → whether the new version is in force then."""


def test_a_deployment_that_is_killed_is_done_whole_or_not_at_all_and_a_rerun_ends_right(place: Place) -> None:
    place.register("a", content="good 1")
    place.deploy()
    with subprocess.Popen(
        [sys.executable, "-c", DEPLOY, str(place.root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as killed:
        assert killed.stdin is not None
        assert killed.stdout is not None
        for version, (point, is_in_force) in enumerate(POINTS.items(), start=2):
            place.register("a", content=f"good {version}")
            print(point, file=killed.stdin, flush=True)
            assert int(killed.stdout.readline()) == signal.SIGKILL, point
            assert place.in_force == {"a": version if is_in_force else version - 1}, point
            report = place.deploy()
            assert report.is_recorded is not is_in_force, point
            assert (place.in_force, place.set_count) == ({"a": version}, version), point
            assert len(place.stored()) == 2, point  # that of the set before, too, and no draft
            assert not place.deploy(dry_run=True).is_recorded
        killed.stdin.close()
    place.roll_back()
    assert place.in_force == {"a": len(POINTS)}


def test_two_deployments_at_once_exclude_each_other(place: Place, tmp_path: Path) -> None:
    place.register("a", content=f"wait {tmp_path / 'go'}")
    reports: list[DeployReport] = []
    first = threading.Thread(target=lambda: reports.append(place.deploy()))
    first.start()
    try:
        lock = place.settings.state / "deploy.lock"
        until(lambda: place.stored() and lock.exists(), "the first deployment does not start")
        with pytest.raises(Unavailable, match=f"another deployment runs, as process {os.getpid()}"):
            place.deploy()
        with pytest.raises(Unavailable, match="another deployment runs"):
            place.roll_back()
    finally:
        (tmp_path / "go").touch()
        first.join()
    assert reports[0].is_recorded
    assert not place.deploy().is_recorded
    assert place.set_count == 1


def test_while_mlflow_is_away_nothing_changes(place: Place) -> None:
    place.register("a")
    place.deploy()
    for address, reason in {
        "http://127.0.0.1:1": r"models\.yaml: mlflow = http://127\.0\.0\.1:1: MLflow failed: .*refused",
        "sqlite:////nowhere/mlflow.db": r"models\.yaml: mlflow = .*: there is no such database",
        "nonsense": r"models\.yaml: mlflow = nonsense: MLflow failed",
    }.items():
        with pytest.raises(Unavailable, match=reason) as caught:
            place.deploy(f"mlflow: {address}\n{ALL}", prune=True)
        if address == "http://127.0.0.1:1":
            assert is_shown("MLflow is away", str(caught.value))
    assert (place.in_force, place.set_count) == ({"a": 1}, 1)
    with pytest.raises(CallError, match="no earlier set"):
        place.roll_back()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Expected `object`, got `null`"),
        ("models: []\n", "models: Expected `array` of length >= 1"),
        ("models:\n  - nam: a\n", r"models\[0\]: Object contains unknown field `nam`"),
        ("models:\n  - name: 3\n", r"models\[0\]\.name: Expected `str`, got `int`"),
        ("models:\n  - name: a\n    version: '1'\n", r"models\[0\]\.version: Expected `int"),
        ("models:\n  - name: a\n    alias: b\n    version: 1\n", "alias and version exclude each other"),
        (f"{ALL}timeout: .nan\n", "timeout: Expected `float` > 0"),
        (f"{ALL}timeout: 3601\n", "timeout: Expected `float` <= 3600"),
        ("models: [", "it is not valid YAML"),
        ("\udcff", "it is not valid YAML"),
    ],
)
def test_a_wrong_file_is_refused_with_its_place(place: Place, text: str, message: str) -> None:
    file = place.root / "models.yaml"
    file.write_bytes(text.encode(errors="surrogateescape"))
    with Workspace(place.settings) as workspace, pytest.raises(CallError, match=message) as caught:
        deploy(workspace, file)
    assert str(file) in str(caught.value)


def test_the_profile_must_serve_on_ray(place: Place) -> None:
    with (
        Workspace(place.settings.with_values(serving="processes")) as workspace,
        pytest.raises(ProjectError, match="this profile runs the replicas as processes"),
    ):
        deploy(workspace, place.root / "models.yaml")
