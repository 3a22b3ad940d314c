"""What the targets for Kubernetes share: the model, a resource's name, its environment, and its YAML."""

from __future__ import annotations

import re
from typing import Any

import yaml

from headrace.config.settings import Settings
from headrace.declare.model import Model
from headrace.export.target import Option
from headrace.kernel.errors import CallError
from headrace.projects.project import load_project

__all__ = ["IMAGE", "MODEL", "NAME", "PROJECT_FOLDER", "SECRET", "choose_model", "resource_name", "to_yaml"]

PROJECT_FOLDER = "/project"
"""The project's folder in the image."""

MODEL = Option("model", "The model, where the project has several.", "NAME")
NAME = Option("name", "The resource's name; default: made from the model's.", "NAME")
IMAGE = Option("image", f"The image, which has Headrace and the project in {PROJECT_FOLDER}.", "IMAGE")
SECRET = Option("secret", "The Kubernetes secret with environment variables, such as HEADRACE_TOKEN.", "NAME")

_NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")


def choose_model(settings: Settings, name: str | None) -> Model:
    """The project's model of this name, or its only one.

    Raises:
        CallError: the project has no such model, or several and no name is given.
    """
    project = load_project(settings)
    if name is not None:
        return project.model(name)
    if len(project.models) != 1:
        raise CallError(
            f"the project has {len(project.models)} models",
            where=str(settings.root),
            remedy=f"Choose one: --model {' or '.join(sorted(project.models))}."
            if project.models
            else "Declare one: Model(...).",
        )
    (model,) = project.models.values()
    return model


def resource_name(given: str | None, default: str) -> str:
    """The given name, or `default` in lower case with `-` for `_`.

    Raises:
        CallError: Kubernetes does not accept the name.
    """
    name = default.lower().replace("_", "-") if given is None else given
    if not _NAME.fullmatch(name):
        raise CallError(
            f"{name!r} is not a valid name of a Kubernetes resource",
            where="--name",
            remedy="Use a letter, then lower-case letters, digits and -, 63 characters at most.",
        )
    return name


def to_yaml(manifest: dict[str, Any]) -> str:
    """The manifest as YAML, in the order of its fields; a text of several lines stays readable."""
    text: str = yaml.dump(manifest, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1_000)
    return text


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]  # PyYAML has no types
    def represent_str(self, text: str) -> yaml.ScalarNode:
        return self.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _Dumper.represent_str)
