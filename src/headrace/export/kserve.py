"""kserve: writes the InferenceService of a model, for KServe on Kubernetes.

It is a container with the project, which answers KServe's V1 protocol by entity keys; or the bundle in MLflow's
model format, which KServe's own server loads, and which takes features.
"""

from __future__ import annotations

import re
from typing import Any

from headrace import registry
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

__all__ = ["TARGET", "container_service", "mlflow_service"]

_PORT = 8080  # KServe's default
_ANY_ADDRESS = "0.0.0.0"  # noqa: S104  KServe's proxy reaches the container by its pod's address
_REMOTE = re.compile(r"(s3|gs|https?|hdfs|webhdfs|pvc|oci)://.+")  # what KServe's storage initializer reads


def _write(
    settings: Settings,
    *,
    model: str | None,
    name: str | None,
    image: str | None,
    secret: str | None,
    storage_uri: str | None,
) -> Export:
    if image is not None and storage_uri is not None:
        raise CallError("--image and --storage-uri exclude each other", remedy="Choose one of them.")
    chosen = choose_model(settings, model).name
    resource = resource_name(name, chosen)
    if image is not None:
        manifest = container_service(resource, image, settings.profile_name, secret or "headrace")
        return Export(to_yaml(manifest), f"InferenceService {resource} of image {image}, protocol v1")
    versions = registry.open(settings)
    version = versions.version(chosen, "champion").version
    address = storage_uri or versions.artifact_uri(chosen, version)
    if not _REMOTE.fullmatch(address):
        raise CallError(
            f"{address!r} is not an address that a cluster can read",
            where=f"the bundle of {chosen}, version {version}",
            remedy="Copy the bundle to a store and name it there: --storage-uri s3://... (or gs://, https://,"
            " pvc://). Or serve the project from an image: --image IMAGE.",
        )
    manifest = mlflow_service(resource, address, chosen, version)
    return Export(to_yaml(manifest), f"InferenceService {resource} of version {version}, protocol v2")


TARGET = Target(
    name="kserve",
    help="Write the InferenceService of a model for KServe.\n\n"
    "With --image it runs the project, and answers by entity keys in KServe's V1 protocol. Without, KServe's"
    " own server loads the champion's bundle as an MLflow model, which takes features.",
    example="headrace export kserve --image registry.example/sales:1 | kubectl apply -f -",
    write=_write,
    options=(
        MODEL,
        NAME,
        IMAGE,
        SECRET,
        Option("storage-uri", "The bundle's address; default: where MLflow has it.", "URI"),
    ),
)


def container_service(name: str, image: str, profile: str, secret: str) -> dict[str, Any]:
    """The InferenceService of a container that runs `headrace up`.

    Args:
        name: the resource's name.
        image: the image, with the project in PROJECT_FOLDER.
        profile: the profile of the project that the container uses.
        secret: the Kubernetes secret with the environment variables of the profile, HEADRACE_TOKEN among them.
    """
    variables = {"HEADRACE_HOST": _ANY_ADDRESS, "HEADRACE_PREDICT_PORT": str(_PORT), "PROTOCOL": "v1"}
    container = {
        "name": "kserve-container",
        "image": image,
        "command": ["headrace", "up", "--project", PROJECT_FOLDER, "--profile", profile],
        "env": [{"name": variable, "value": value} for variable, value in variables.items()],
        "envFrom": [{"secretRef": {"name": secret}}],
        "ports": [{"containerPort": _PORT, "protocol": "TCP"}],
        "readinessProbe": {"httpGet": {"path": "/healthz", "port": _PORT}},
    }
    return _service(name, {"containers": [container]}, {})


def mlflow_service(name: str, address: str, model: str, version: int) -> dict[str, Any]:
    """The InferenceService of a bundle that KServe's server for MLflow models loads.

    Args:
        name: the resource's name.
        address: the address of the bundle, in a form that KServe's storage initializer reads.
        model, version: the bundle's, for the resource's annotations.
    """
    source = {"modelFormat": {"name": "mlflow"}, "protocolVersion": "v2", "storageUri": address}
    return _service(name, {"model": source}, {"headrace/model": model, "headrace/version": str(version)})


def _service(name: str, predictor: dict[str, Any], annotations: dict[str, str]) -> dict[str, Any]:
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": name, **({"annotations": annotations} if annotations else {})},
        "spec": {"predictor": predictor},
    }
