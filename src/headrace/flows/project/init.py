"""init: a new project, from nothing or from an example."""

from __future__ import annotations

import importlib.util
import keyword
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from headrace.config.settings import FILE
from headrace.kernel.errors import CallError

__all__ = ["NewProject", "examples", "init"]

_IGNORED = """\
# What Headrace keeps on this machine: tables, logs, the signing key. Never commit it.
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
_PACKAGE = '''\
"""{name}: declare events, tables, features and models in modules of this package."""
'''


@dataclass(frozen=True)
class NewProject:
    """A new project.

    Attributes:
        folder: where.
        example: what it was copied from, or None.
        files: how many files it has.
    """

    folder: Path
    example: str | None
    files: int


def init(folder: Path, example: str | None = None) -> NewProject:
    """Makes a project in a folder that is empty or not there yet.

    Args:
        folder: where; without an example its name becomes the project's.
        example: one of `examples()`.

    Raises:
        CallError: the folder is not empty, there is no such example, or the folder's name can't be
            a package's.
    """
    folder = folder.absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CallError(
            "it is there already, and not empty",
            where=str(folder),
            remedy="Name a folder that is not there yet.",
        )
    if example is None:
        _empty(folder)
    else:
        source = examples().get(example)
        if source is None:
            raise CallError(
                f"there is no example {example!r}", remedy=f"There are: {', '.join(examples()) or 'none'}."
            )
        shutil.copytree(
            source,
            folder,
            dirs_exist_ok=True,
            ignore=shutil.ignore_patterns("__pycache__", ".headrace", ".dvc"),
        )
    ignore = folder / ".gitignore"
    kept = ignore.read_text() if ignore.is_file() else ""
    if ".headrace/" not in kept:
        ignore.write_text(kept + _IGNORED)

    from headrace.flows.build.pipeline import init as init_dvc  # .5 s, and only once all else is right

    init_dvc(folder)
    count = sum(1 for path in folder.rglob("*") if path.is_file() and ".dvc" not in path.parts)
    return NewProject(folder, example, count)


def examples() -> dict[str, Path]:
    """The examples by name: those of the source checkout, else those inside the installed package."""
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
            f"{folder.name!r} can't be a project's name",
            where=str(folder),
            remedy="Use letters, digits and _, beginning with a letter.",
        )
    if keyword.iskeyword(name) or _is_another_package(name):
        raise CallError(
            f"a project's package can't be named {name!r}: Python has that name for something else",
            where=str(folder),
            remedy=f"Choose another name, such as {name}_project.",
        )
    (folder / name).mkdir(parents=True)
    (folder / FILE).write_text(_SETTINGS.format(name=name))
    (folder / name / "__init__.py").write_text(_PACKAGE.format(name=name))


def _is_another_package(name: str) -> bool:
    """Whether an import finds something of this name already, which the project's package would hide."""
    spec = importlib.util.find_spec(name)
    return spec is not None and spec.origin is not None  # a mere folder has no origin
