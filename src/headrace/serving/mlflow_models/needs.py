"""Needs: the Python and the packages that a model states in its artefact: python_env.yaml, requirements.txt."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from msgspec import Struct

from headrace.kernel.digest import digest_value
from headrace.kernel.errors import Refused

__all__ = ["PYTHON_ENV", "Needs", "read_needs", "read_yaml"]

PYTHON_ENV = "python_env.yaml"
_MAX_BYTES = 1 << 20  # of a file of YAML or of requirements
_PYTHON = re.compile(r"(3\.\d{1,2})(\.\d{1,2})?")
_INCLUDE = re.compile(r"(?:-r|--requirement|-c|--constraint)[ =]?\s*(?P<file>\S.*)")
_COMMENT = re.compile(r"(^|\s)#.*")
_MLFLOW = re.compile(r"mlflow([-_.]skinny)?(?![\w.-])", re.IGNORECASE)


class Needs(Struct, frozen=True):
    """What a model needs to run.

    Attributes:
        python: the version of Python that it was logged with, such as `3.9.18`. Any patch of 3.9 will do.
        requirements: the lines of its requirements.
        constraints: the lines of its constraints.
    """

    python: str
    requirements: list[str]
    constraints: list[str] = []

    @property
    def minor(self) -> str:
        """The version of Python without the patch, such as `3.9`."""
        return ".".join(self.python.split(".")[:2])

    @property
    def digest(self) -> str:
        """The name of the environment: equal for models with equal needs, in any order, on one platform."""
        machine = [sys.platform, platform.machine()]
        return digest_value([machine, self.minor, sorted(self.requirements), sorted(self.constraints)])


def read_needs(artifact: Path) -> Needs:
    """Reads the needs from the files of a model's artefact.

    Raises:
        Refused: a file is missing or not valid, or the requirements lack MLflow, which loads the model.
    """
    environment = read_yaml(artifact, PYTHON_ENV)
    match = _PYTHON.fullmatch(str(environment.get("python", "")))
    if match is None:
        raise Refused(
            f"{environment.get('python')!r} is not a valid version of Python 3", where=f"{PYTHON_ENV}: python"
        )
    entries = environment.get("dependencies", [])
    if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
        raise Refused("it must be a list of requirements", where=f"{PYTHON_ENV}: dependencies")
    requirements: list[str] = []
    constraints: list[str] = []
    for is_constraint, line in _expand(artifact, entries, set()):
        (constraints if is_constraint else requirements).append(line)
    if not any(_MLFLOW.match(line) for line in requirements):
        raise Refused(
            "its requirements lack mlflow, which loads the model",
            where="requirements.txt",
            remedy="Log the model again with mlflow or mlflow-skinny among its pip_requirements.",
        )
    return Needs(match[0], requirements, constraints)


def read_yaml(artifact: Path, name: str) -> dict[str, Any]:
    """Reads a file of an artefact as YAML: a mapping. Its values are texts: 3.10 must not become 3.1.

    Raises:
        Refused: the file is missing, or is not valid YAML.
    """
    import yaml

    try:
        content = yaml.load(_read(artifact, name), yaml.BaseLoader)  # noqa: S506 - it makes texts alone
    except (yaml.YAMLError, RecursionError) as error:
        raise Refused(f"it is not valid YAML: {' '.join(str(error).split())}", where=name) from error
    if not isinstance(content, dict):
        raise Refused("it is not a mapping", where=name)
    return content


def _expand(artifact: Path, lines: list[str], files: set[str]) -> Iterator[tuple[bool, str]]:
    """Whether it is a constraint, and the line, for each line; files that a line includes are read."""
    for text in lines:
        line = _COMMENT.sub("", text).strip()
        include = _INCLUDE.fullmatch(line)
        if include is None:
            if line:
                yield False, line
            continue
        name = include["file"].strip()
        if name in files:
            continue
        included = _read(artifact, name).splitlines()
        for is_constraint, inner in _expand(artifact, included, files | {name}):
            yield is_constraint or line.startswith(("-c", "--constraint")), inner


def _read(artifact: Path, name: str) -> str:
    path = artifact / name
    if not path.resolve().is_relative_to(artifact.resolve()):
        raise Refused("it is not a file of the artefact", where=name)
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise Refused(f"it is larger than {_MAX_BYTES:,} bytes", where=name)
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise Refused("it is not UTF-8", where=name) from error
    except OSError as error:
        remedy = (
            "Log it again with MLflow 1.28 or newer, which writes the file." if name == PYTHON_ENV else None
        )
        raise Refused(f"its artefact lacks {name}", remedy=remedy) from error
