"""params: the values of the project's params.yaml, for its declarations."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from types import FrameType
from typing import Any

from headrace.code.source_files import PARAMS_FILE
from headrace.config.settings import find_root
from headrace.declare.place import Place, calling_frame
from headrace.kernel.errors import ProjectError

__all__ = ["find_param", "params", "read_params"]


def params(name: str = "", *, choices: Collection[Any] | None = None) -> Any:
    """The value of an entry of the project's params.yaml.

        ESTIMATOR = params("estimator", choices=["svm", "knn"])
        GRID = params(f"grid.{ESTIMATOR}")

    It is read when the project's modules are imported: call it at the top of a module, or in a function that
    the top of a module calls. A declaration that uses the value is stale if the entry changes. If the name is
    not written as plain text, as `GRID` above, any change of params.yaml makes the declaration stale.

    Args:
        name: the entry; entries of entries are separated by dots. Without a name it is the whole file.
        choices: the values that are allowed; None: any.

    Returns:
        What YAML 1.2 makes of the entry: text, a number, True, False, None, a list or a dict.

    Raises:
        ProjectError: the project has no params.yaml, the file is not valid, it has no such entry, the value is
            not one of `choices`, or the call is made by a function that runs after the import.
    """
    place = Place.of_caller()
    file = Path(place.file)
    root = find_root(file.parent if file.is_file() else None)
    _check_importing(root, name, place)
    value = find_param(read_params(root, place), name, str(place))
    if choices is not None and value not in choices:
        raise ProjectError(
            f"{PARAMS_FILE} says {name}: {value!r}, which is not one of the choices",
            where=str(root / PARAMS_FILE),
            remedy=f"The choices are {', '.join(map(repr, choices))} ({place}).",
        )
    return value


def read_params(root: Path, place: Place | None = None) -> dict[str, Any]:
    """The content of the project's params.yaml.

    Args:
        root: the project's folder.
        place: where a declaration reads it. None: a missing file is an empty one.

    Raises:
        ProjectError: there is no such file, it is not valid YAML, or not a mapping.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    file = root / PARAMS_FILE
    try:
        content = YAML(typ="safe").load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if place is None:
            return {}
        raise ProjectError(
            f"the project has no {PARAMS_FILE}, which params() reads",
            where=str(place),
            remedy=f"Write {file}, with an entry for each name.",
        ) from None
    except (YAMLError, UnicodeDecodeError) as error:
        raise ProjectError(f"it is not valid YAML: {error}", where=str(file)) from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ProjectError(
            "it is not a mapping of names to values",
            where=str(file),
            remedy="Write `name: value` lines.",
        )
    return content


def find_param(content: dict[str, Any], name: str, where: str) -> Any:
    """The entry of this dotted name; the whole content for an empty name.

    Raises:
        ProjectError: there is no such entry; the error lists those that there are.
    """
    value: Any = content
    parts = name.split(".") if name else []
    for depth, part in enumerate(parts):
        if not isinstance(value, dict) or part not in value:
            parent = ".".join(parts[:depth])
            raise ProjectError(
                f"{PARAMS_FILE} has no entry {name!r}",
                where=where,
                remedy=_list_entries(value, parent),
            )
        value = value[part]
    return value


def _list_entries(value: Any, parent: str) -> str:
    if not isinstance(value, dict) or not value:
        return f"{parent or PARAMS_FILE} has no entries."
    return f"The entries{f' of {parent}' if parent else ''} are {', '.join(map(str, value))}."


def _check_importing(root: Path, name: str, place: Place) -> None:
    """Raises ProjectError unless an import made the call: code must not run with another value than the one
    that its fingerprint was taken with."""
    caller = calling_frame()
    frame: FrameType | None = caller
    while frame is not None:
        is_module = frame.f_code.co_name == "<module>"
        if is_module and (frame is caller or _top_folder(frame, root) == _top_folder(caller, root)):
            return
        frame = frame.f_back
    raise ProjectError(
        f"params({name!r}) is called by a function that runs after its module was imported",
        where=str(place),
        remedy="Call it at the top of the module, and use the value in the function.",
    )


def _top_folder(frame: FrameType, root: Path) -> str:
    """The folder or file at the top of the project that the frame's code is in; its path if it is elsewhere."""
    path = Path(frame.f_code.co_filename)
    return path.relative_to(root).parts[0] if path.is_relative_to(root) else str(path)
