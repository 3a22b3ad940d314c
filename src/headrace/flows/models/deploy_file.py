"""The file of `headrace deploy`: which models of which MLflow are served."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from headrace.kernel.errors import CallError

__all__ = ["DeployFile", "Selection", "read_deploy_file"]

_EXAMPLE = """Write it as:
mlflow: http://127.0.0.1:5000
models:
  - name: iris_*"""


class Selection(Struct, frozen=True, forbid_unknown_fields=True):
    """Models of an MLflow.

    Attributes:
        name: their names: a name, or a pattern with `*`, `?` and `[...]`.
        alias: the alias of the version; a model that lacks it is not selected by a pattern.
        version: the number of the version. Without an alias and a number it is the newest.
    """

    name: Annotated[str, Meta(min_length=1)]
    alias: str | None = None
    version: Annotated[int, Meta(ge=1)] | None = None

    @property
    def is_pattern(self) -> bool:
        """Whether the name is a pattern."""
        return any(character in self.name for character in "*?[")


class DeployFile(Struct, frozen=True, forbid_unknown_fields=True):
    """The content of the file.

    Attributes:
        models: which models.
        mlflow: MLflow's address; None: that of the profile.
        timeout: seconds within which a model must answer a request.
    """

    models: Annotated[list[Selection], Meta(min_length=1)]
    mlflow: str | None = None
    timeout: Annotated[float, Meta(gt=0, le=3600)] = 60.0


def read_deploy_file(path: Path) -> DeployFile:
    """Reads the file.

    Raises:
        CallError: it does not exist, is not valid YAML, or has something that it should not.
    """
    try:
        content = msgspec.yaml.decode(path.read_bytes(), type=DeployFile)
    except OSError as error:
        raise CallError(f"the file cannot be read: {error.strerror}", where=str(path)) from error
    except msgspec.ValidationError as error:
        problem, _, place = str(error).partition(" - at `$.")
        place = place.rstrip("`")
        raise CallError(problem, where=f"{path}: {place}" if place else str(path), remedy=_EXAMPLE) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        text = " ".join(str(error).split())
        raise CallError(f"it is not valid YAML: {text}", where=str(path), remedy=_EXAMPLE) from error
    for index, selection in enumerate(content.models):
        if selection.alias is not None and selection.version is not None:
            raise CallError("alias and version exclude each other", where=f"{path}: models[{index}]")
    return content
