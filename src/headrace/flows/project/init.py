"""init: makes a new project, empty or from an example."""

from __future__ import annotations

import importlib.util
import keyword
import re
import shutil
import tomllib
from pathlib import Path

from msgspec import Struct

from headrace.config.settings import FILE, make_absolute
from headrace.kernel.errors import CallError
from headrace.kernel.files import write_file

__all__ = ["NewProject", "examples", "init"]

_IGNORED = """\
# Headrace's state on this machine: tables, logs, the signing key. Never commit it.
.headrace/
__pycache__/
*.pyc
"""
_SETTINGS = """\
[project]
name = "{name}"

# The default profile needs only Python: every setting has an embedded default.
[profile.local]
"""
_EVENTS = '''\
"""The events of {name}. Here is an example: replace it by your own, and send a file of them.

    headrace send clicks FILE
    headrace ingest --until-end
"""

# from datetime import datetime
#
# from headrace import Struct, event
#
#
# @event(topic="clicks", time="clicked_at", key="user")
# class Click(Struct):
#     clicked_at: datetime
#     user: int
#     page: str
'''
_DOCUMENTATION = re.compile(r"\[([^]]+)\]\((?:\.\./)+(docs/[^)]+)\)")  # a link from an example's page
_PACKAGE = '''\
"""{name}: declare events, tables, features and models in modules of this package."""
'''


class NewProject(Struct, frozen=True):
    """A new project.

    Attributes:
        folder: its folder.
        name: its name, which is the name of its package too.
        example: the example that it was copied from, or None.
        files: how many files it has.
    """

    folder: Path
    name: str
    example: str | None
    files: int


def init(folder: Path, example: str | None = None) -> NewProject:
    """Makes a project in a folder that does not exist, is empty, or holds a new git repository.

    Args:
        folder: the folder; without an example its name becomes the project's name.
        example: one of `examples()`.

    Raises:
        CallError: the folder is not empty, the example does not exist, or the folder's name is not a valid
            project name.
    """
    folder = make_absolute(folder)
    if folder.exists() and not folder.is_dir():
        raise CallError("a file of this name exists", where=str(folder), remedy="Name another folder.")
    if folder.exists() and not {path.name for path in folder.iterdir()} <= {".git"}:
        raise CallError(
            "the folder is not empty",
            where=str(folder),
            remedy="Name a folder that does not exist yet. To make a project of this one, write headrace.toml "
            'into it ([project] and below it name = "NAME") and a Python package of that name.',
        )
    if example is None:
        _empty(folder)
    else:
        source = examples().get(example)
        if source is None:
            raise CallError(
                f"example {example!r} does not exist", remedy=f"Choose one: {', '.join(examples())}."
            )
        shutil.copytree(
            source,
            folder,
            dirs_exist_ok=True,
            ignore=shutil.ignore_patterns("__pycache__", ".headrace", ".dvc"),
        )
        _name_documentation(folder / "README.md")
    ignore = folder / ".gitignore"
    text = ignore.read_text() if ignore.is_file() else ""
    if ".headrace/" not in text:
        write_file(ignore, text + _IGNORED)

    from headrace.flows.build.pipeline import init as init_dvc  # takes 0.5 s, so only after all checks

    init_dvc(folder)
    count = sum(1 for path in folder.rglob("*") if path.is_file() and ".dvc" not in path.parts)
    name = tomllib.loads((folder / FILE).read_text(encoding="utf-8"))["project"]["name"]
    return NewProject(folder, name, example, count)


def examples() -> dict[str, Path]:
    """Name → folder of each example: those of the source checkout, else those in the installed package."""
    import headrace

    package = Path(headrace.__file__).parent
    for place in (package.parents[1] / "examples", package / "examples"):
        folders = {file.parent.name: file.parent for file in sorted(place.glob(f"*/{FILE}"))}
        if folders:
            return folders
    return {}


def _empty(folder: Path) -> None:
    name = re.sub(r"[^a-z0-9]+", "_", folder.name.lower()).strip("_")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise CallError(
            f"{folder.name!r} is not a valid project name",
            where=str(folder),
            remedy="Use letters, digits and _, beginning with a letter.",
        )
    if keyword.iskeyword(name) or _is_another_package(name):
        raise CallError(
            f"{name!r} is not a valid project name: Python uses it for something else",
            where=str(folder),
            remedy=f"Choose another name, such as {name}_project.",
        )
    (folder / name).mkdir(parents=True)
    (folder / FILE).write_text(_SETTINGS.format(name=name))
    (folder / name / "__init__.py").write_text(_PACKAGE.format(name=name))
    (folder / name / "events.py").write_text(_EVENTS.format(name=name))


def _name_documentation(page: Path) -> None:
    """Names the pages of Headrace that an example's page links to: the links lead nowhere from a copy."""
    if page.is_file():
        text = page.read_text(encoding="utf-8")
        page.write_text(_DOCUMENTATION.sub(r"\1 (Headrace's \2)", text), encoding="utf-8")


def _is_another_package(name: str) -> bool:
    """Whether another package has this name, which the project's package would hide."""
    spec = importlib.util.find_spec(name)
    return spec is not None and spec.origin is not None  # a folder without modules has no origin
