"""kubeflow: writes the TrainJob of a model, for the Kubeflow Trainer on Kubernetes.

Its function is what Kubeflow's SDK also takes, `CustomTrainer(func=train_model, func_args={...})`: the job has
the text of the function, and an image with Headrace and the project.
"""

from __future__ import annotations

import inspect
from typing import Any

from headrace.config.settings import Settings
from headrace.export.kubernetes import (
    IMAGE,
    MODEL,
    NAME,
    PROJECT_FOLDER,
    SECRET,
    choose_model,
    resource_name,
    to_yaml,
)
from headrace.export.target import Export, Option, Target
from headrace.kernel.errors import CallError

__all__ = ["TARGET", "train_job", "train_model"]

_RUNTIME = "torch-distributed"  # the runtime that the Kubeflow Trainer installs


def train_model(arguments: dict[str, str]) -> None:
    """Trains a model of a project, registers the version, and releases it if it passes the gate.

    This is `headrace build MODEL`: what the model needs is brought up to date first.
    """
    import headrace

    project = headrace.project(arguments["folder"], profile=arguments["profile"])
    built = project.build(arguments["model"])
    for stage in built.stages:
        print(stage.stage, stage.what)


def _write(
    settings: Settings,
    *,
    model: str | None,
    name: str | None,
    image: str | None,
    secret: str | None,
    variables: str | None,
    runtime: str | None,
) -> Export:
    if image is None:
        raise CallError(
            "a TrainJob needs an image that has Headrace and the project",
            remedy=f"Name it: --image IMAGE. The project must be in its folder {PROJECT_FOLDER}.",
        )
    if (secret is None) != (variables is None):
        raise CallError(
            "--secret and --variables belong together",
            remedy="For example --secret headrace --variables AWS_ACCESS_KEY_ID,AWS_SECRET_ACCESS_KEY.",
        )
    chosen = choose_model(settings, model).name
    resource = resource_name(name, f"train-{chosen}")
    arguments = {"folder": PROJECT_FOLDER, "profile": settings.profile_name, "model": chosen}
    names = [variable.strip() for variable in (variables or "").split(",") if variable.strip()]
    environment = dict.fromkeys(names, secret or "")
    manifest = train_job(resource, image, arguments, environment, runtime or _RUNTIME)
    return Export(to_yaml(manifest), f"TrainJob {resource} of image {image}")


TARGET = Target(
    name="kubeflow",
    help="Write the TrainJob of a model for the Kubeflow Trainer.\n\n"
    "The job runs headrace build MODEL in the image: it trains and registers a version, and releases it if it"
    " passes the gate.",
    example="headrace export kubeflow --image registry.example/sales:1 | kubectl create -f -",
    write=_write,
    options=(
        MODEL,
        NAME,
        IMAGE,
        SECRET,
        Option(
            "variables", "The environment variables that the job takes from the secret, with commas.", "A,B"
        ),
        Option("runtime", f"The ClusterTrainingRuntime; default: {_RUNTIME}.", "NAME"),
    ),
)


def train_job(
    name: str, image: str, arguments: dict[str, str], environment: dict[str, str], runtime: str
) -> dict[str, Any]:
    """The TrainJob that calls `train_model`.

    Args:
        name: the resource's name.
        image: the image, with Headrace and the project.
        arguments: `train_model`'s: folder, profile and model.
        environment: environment variable → the Kubernetes secret that has it under its name.
        runtime: the ClusterTrainingRuntime.
    """
    program = f"{inspect.getsource(train_model)}\n\ntrain_model({arguments!r})\n"
    trainer: dict[str, Any] = {"image": image, "command": ["python", "-c", program], "numNodes": 1}
    if environment:
        trainer["env"] = [
            {"name": variable, "valueFrom": {"secretKeyRef": {"name": secret, "key": variable}}}
            for variable, secret in environment.items()
        ]
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": {"name": name},
        "spec": {"runtimeRef": {"name": runtime}, "trainer": trainer},
    }
