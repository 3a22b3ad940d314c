"""The targets kserve and kubeflow: valid against the published schemas, and their bad input is named."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.export.manifests import find_faults
from tests.export.small_project import write_project

from headrace.export.kserve import container_service, mlflow_service
from headrace.export.kubeflow import train_job
from headrace.export.kubernetes import resource_name, to_yaml
from headrace.kernel.errors import CallError

IMAGE = "registry.example/sales:1"
CONTAINER = container_service("sales", IMAGE, "local", "headrace")
MLFLOW = mlflow_service("sales", "s3://models/sales/3", "sales", 3)
ARGUMENTS = {"folder": "/project", "profile": "local", "model": "sales"}
TRAIN_JOB = train_job("train-sales", IMAGE, ARGUMENTS, {"AWS_ACCESS_KEY_ID": "headrace"}, "torch-distributed")


def at(manifest: dict[str, Any], path: str) -> dict[str, Any]:
    """The object at the path within a manifest."""
    value: Any = manifest
    for name in path.split("."):
        value = value[int(name)] if name.isdigit() else value[name]
    assert isinstance(value, dict)
    return value


@pytest.mark.parametrize("manifest", [CONTAINER, MLFLOW, TRAIN_JOB], ids=["container", "mlflow", "job"])
def test_each_manifest_is_valid_against_its_published_schema(manifest: dict[str, Any]) -> None:
    assert find_faults(manifest) == []
    assert yaml.safe_load(to_yaml(manifest)) == manifest


@pytest.mark.parametrize(
    ("manifest", "path", "change", "fault"),
    [
        (CONTAINER, "spec.predictor.containers.0", {"imagee": "x"}, "'imagee' was unexpected"),
        (CONTAINER, "spec.predictor.containers.0.ports.0", {"containerPort": "8080"}, "not of type 'integer'"),
        (CONTAINER, "spec.predictor", {"replicas": 2}, "'replicas' was unexpected"),
        (CONTAINER, "metadata", {"name": "Sales model"}, "does not match"),
        (CONTAINER, "spec", {"predictorr": {}}, "'predictorr' was unexpected"),
        (MLFLOW, "spec.predictor.model", {"storageURI": "s3://b"}, "'storageURI' was unexpected"),
        (MLFLOW, "spec.predictor.model", {"modelFormat": "mlflow"}, "is not of type 'object'"),
        (TRAIN_JOB, "spec.trainer", {"nodes": 1}, "'nodes' was unexpected"),
        (TRAIN_JOB, "spec.trainer", {"command": "python"}, "is not of type 'array'"),
        (TRAIN_JOB, "spec", {"runtimeRef": {}}, "'name' is a required property"),
        (TRAIN_JOB, "spec.trainer.env.0.valueFrom.secretKeyRef", {"keyy": "A"}, "'keyy' was unexpected"),
    ],
)
def test_a_misspelt_or_wrong_field_is_found(
    manifest: dict[str, Any], path: str, change: dict[str, Any], fault: str
) -> None:
    changed = copy.deepcopy(manifest)
    at(changed, path).update(change)
    faults = find_faults(changed)
    assert any(fault in text for text in faults), faults


def test_the_container_answers_as_kserve_calls_it() -> None:
    (container,) = CONTAINER["spec"]["predictor"]["containers"]
    (port,) = container["ports"]
    environment = {variable["name"]: variable["value"] for variable in container["env"]}
    assert environment["HEADRACE_PREDICT_PORT"] == str(port["containerPort"])
    assert environment["PROTOCOL"] == "v1"
    assert container["command"] == ["headrace", "up", "--project", "/project", "--profile", "local"]


def test_the_job_calls_the_function_with_its_arguments() -> None:
    python, option, program = TRAIN_JOB["spec"]["trainer"]["command"]
    assert (python, option) == ("python", "-c")
    calls: list[tuple[object, ...]] = []

    class Built:
        stages = ()

    class Project:
        def build(self, stage: str) -> Built:
            calls.append(("build", stage))
            return Built()

    class Headrace:
        @staticmethod
        def project(folder: str, *, profile: str) -> Project:
            calls.append(("project", folder, profile))
            return Project()

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "headrace", Headrace)  # type: ignore[arg-type]
        exec(compile(program, "job", "exec"), {})
    assert calls == [("project", "/project", "local"), ("build", "sales")]


@pytest.mark.parametrize("name", ["", "A", "a_b", "1a", "-a", "a-", "a.b", "a" * 64, "a b", "a\n"])
def test_a_name_that_kubernetes_refuses_is_refused(name: str) -> None:
    with pytest.raises(CallError, match="is not a valid name"):
        resource_name(name, "unused")


def test_a_models_name_becomes_a_resource_name() -> None:
    assert resource_name(None, "Sales_2026") == "sales-2026"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with two models that was never built."""
    return write_project(tmp_path_factory.mktemp("export") / "small", "first", "second_one")


def call(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    headrace = Path(sys.executable).with_name("headrace")
    command = [headrace, "export", *arguments, "--project", project]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["kserve", "--image", "i"], "Choose one: --model first or second_one"),
        (["kubeflow", "--image", "i"], "Choose one: --model first or second_one"),
        (["kserve", "--model", "third", "--image", "i"], "model 'third' does not exist"),
        (["kserve", "--model", "first"], "model 'first' has no version 'champion'"),
        (["kserve", "--model", "first", "--image", "i", "--storage-uri", "s3://b"], "exclude each other"),
        (["kserve", "--model", "first", "--image", "i", "--name", "A"], "'A' is not a valid name"),
        (["kubeflow", "--model", "first"], "needs an image"),
        (["kubeflow", "--model", "first", "--image", "i", "--secret", "s"], "belong together"),
    ],
)
def test_invalid_options_are_named(project: Path, arguments: list[str], message: str) -> None:
    process = call(project, *arguments)
    assert (process.returncode != 0, message in process.stderr) == (True, True), process.stderr
    assert process.stdout == ""


def test_the_command_writes_a_valid_manifest(project: Path, tmp_path: Path) -> None:
    file = tmp_path / "service.yaml"
    process = call(project, "kserve", "--model", "second_one", "--image", IMAGE, "--output", str(file))
    assert process.stdout == f"Wrote {file}: InferenceService second-one of image {IMAGE}, protocol v1.\n"
    manifest = yaml.safe_load(file.read_text())
    assert find_faults(manifest) == []
    assert manifest["metadata"]["name"] == "second-one"
    process = call(project, "kubeflow", "--model", "first", "--image", IMAGE)
    assert find_faults(yaml.safe_load(process.stdout)) == []
