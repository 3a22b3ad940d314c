"""Why a stage is stale: the code of which function, which input, which parameter, which contract."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from headrace.flows.build.code import changed_pieces
from headrace.flows.build.graph import Stage
from headrace.flows.build.pipeline import Recorded
from headrace.flows.build.pointers import pointer_text

__all__ = ["Planned", "Reason", "plan"]

Kind = Literal["new", "code", "input", "parameter", "contract", "lock", "output", "upstream", "state"]


@dataclass(frozen=True)
class Reason:
    """One reason.

    Attributes:
        kind: of what sort.
        what: which one, as a person would say it.
    """

    kind: Kind
    what: str


@dataclass(frozen=True)
class Planned:
    """A stage, and why it is to run; no reasons: it is up to date."""

    stage: Stage
    reasons: tuple[Reason, ...]


def plan(
    root: Path,
    stages: list[Stage],
    recorded: Mapping[str, Recorded],
    code: dict[str, Any],
    sources: Mapping[str, dict[str, Any]],
    displaced: Mapping[str, str],
    taken: Callable[[str, bool], str | None],
) -> list[Planned]:
    """What a build would run, in order; nothing is written.

    Args:
        root: the project's folder.
        stages: in order.
        recorded: what dvc.lock says.
        code: the fingerprints as they are now.
        sources: source pointer → what it would hold now.
        displaced: stage → what of it, outside of git, stands elsewhere than its pointer says.
        taken: (model, whether its tables are stale) → why newer inputs would be taken, or None.
    """
    planned: list[Planned] = []
    stale: dict[str, str] = {}
    for stage in stages:
        if stage.kind == "code":
            continue
        reasons = _reasons(root, stage, recorded.get(stage.name), code, sources, stale)
        if stage.kind == "inputs":
            why = taken(stage.subject, any(one in stale for one in stage.deps))
            # Newer tables alone do not make a model stale: its refresh decides.
            reasons = [] if why is None else [Reason("input", why)]
        if reasons:
            stale[stage.out] = stage.name
        elif stage.name in displaced:  # it is brought back, and its pointer stays as it is
            reasons = [Reason("state", displaced[stage.name])]
        planned.append(Planned(stage, tuple(reasons)))
    return planned


def _reasons(
    root: Path,
    stage: Stage,
    before: Recorded | None,
    code: dict[str, Any],
    sources: Mapping[str, dict[str, Any]],
    stale: Mapping[str, str],
) -> list[Reason]:
    if before is None:
        return [Reason("new", "it was never made")]
    found: list[Reason] = []
    for key in stage.params:
        found += _parameter(key, before.params.get(key), _looked_up(code, key))
    for path in stage.deps:
        if path in stale:
            found.append(Reason("upstream", f"{stale[path]} runs first"))
        elif path in sources:
            now = sources[path]
            if before.files.get(path) != _md5(pointer_text(now)):
                found.append(Reason("input", _source(now)))
        elif before.files.get(path) != _md5_of(root / path):
            found.append(Reason("input", f"{path} changed"))
    if not found and before.files.get(stage.out) != _md5_of(root / stage.out):
        found.append(Reason("output", f"{stage.out} is gone or was changed by hand"))
    found += [Reason("output", f"{one}/ is gone") for one in stage.files if not (root / one).exists()]
    return found


def _parameter(key: str, before: Any, now: Any) -> list[Reason]:
    if before == now:
        return []
    kind, _, name = key.partition(".")
    if kind == "lock":
        return [Reason("lock", "the project's lock")]
    if not isinstance(before, list) or not isinstance(now, list):
        return [Reason("code", f"features of {name.partition('.')[0]}")]
    pieces = changed_pieces(before, now)
    if kind == "contracts":
        return [Reason("contract", one) for one in pieces]
    return [Reason("parameter" if kind == "models" else "code", one) for one in pieces]


def _looked_up(code: dict[str, Any], key: str) -> Any:
    value: Any = code
    for part in key.split("."):
        value = value[part]
    return value


def _source(now: dict[str, Any]) -> str:
    return (
        f"{now['table']} has new events" if "table" in now else f"the files of source {now['source']} changed"
    )


def _md5(text: bytes) -> str:
    return hashlib.md5(text, usedforsecurity=False).hexdigest()  # as DVC does


def _md5_of(path: Path) -> str | None:
    return _md5(path.read_bytes()) if path.is_file() else None
