"""Options: how a model is served, as the tags of its version say it (`ray.name`, `ray.num_replicas`, ...)."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta, Struct

from headrace.kernel.errors import Refused

__all__ = ["NAME_RULE", "Autoscaling", "ServingOptions", "is_valid_name", "read_options"]

_PREFIX = "ray."
_CPU_DIGITS = 4  # decimals that Ray distinguishes
_LONGEST = 80  # characters of a tag's value that a message has
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
NAME_RULE = "letters, digits, '.', '_' and '-', beginning with a letter or digit, at most 100"


class Autoscaling(Struct, frozen=True):
    """How Ray Serve changes the number of replicas.

    Attributes:
        min_replicas, max_replicas: the bounds.
        target_ongoing_requests: how many requests a replica should have in progress.
    """

    min_replicas: int = 1
    max_replicas: int = 1
    target_ongoing_requests: float = 2.0


class ServingOptions(Struct, frozen=True):
    """How a model is served.

    Attributes:
        name: the name in its paths.
        num_replicas: the number of its replicas, unless they are scaled.
        num_cpus: the CPUs that Ray reserves for a replica.
        memory: the bytes of memory that Ray reserves for a replica; 0: none.
        env_vars: environment variables of its process.
        autoscaling: how the number of replicas changes; None: it does not.
        max_batch_size: how many requests one call of the model may answer.
    """

    name: str
    num_replicas: int = 1
    num_cpus: float = 0.0
    memory: int = 0
    env_vars: dict[str, str] = {}
    autoscaling: Autoscaling | None = None
    max_batch_size: int = 1


class _Tag(NamedTuple):
    """What the value of a tag must be.

    Attributes:
        rule: in words.
        read: the value of its text. Raises ValueError (or msgspec's error, which is one).
    """

    rule: str
    read: Callable[[str], Any]


def _number(type_: Any) -> Callable[[str], Any]:
    return lambda text: msgspec.convert(text.strip(), type_, strict=False)


def _read_name(text: str) -> str:
    if not is_valid_name(text):
        raise ValueError
    return text


def _read_variables(text: str) -> dict[str, str]:
    variables = msgspec.json.decode(text, type=dict[str, str])
    if any(not name or "=" in name or "\0" in name + value for name, value in variables.items()):
        raise ValueError
    return variables


def _read_cpus(text: str) -> float:
    cpus: float = _number(Annotated[float, Meta(ge=0, le=1_000)])(text)
    if round(cpus, _CPU_DIGITS) != cpus:
        raise ValueError
    return cpus


_Count = Annotated[int, Meta(ge=1, le=1_000)]
_SCALING = "autoscaling_config."
_TAGS = {
    "name": _Tag(NAME_RULE, _read_name),
    "num_replicas": _Tag("a whole number from 1 to 1,000", _number(_Count)),
    "ray_actor_options.num_cpus": _Tag(
        f"a number from 0 to 1,000 with at most {_CPU_DIGITS} decimals", _read_cpus
    ),
    "ray_actor_options.memory": _Tag(
        "a number of GB from 0.001 to 100,000, such as 0.5",
        _number(Annotated[float, Meta(ge=0.001, le=100_000)]),
    ),
    "runtime_env.env_vars": _Tag('a JSON object of texts, such as {"OMP_NUM_THREADS": "1"}', _read_variables),
    f"{_SCALING}min_replicas": _Tag(
        "a whole number from 0 to 1,000", _number(Annotated[int, Meta(ge=0, le=1_000)])
    ),
    f"{_SCALING}max_replicas": _Tag("a whole number from 1 to 1,000", _number(_Count)),
    f"{_SCALING}target_ongoing_requests": _Tag(
        "a number above 0", _number(Annotated[float, Meta(gt=0, le=1_000_000)])
    ),
    "user_config.max_batch_size": _Tag("a whole number from 1 to 1,000", _number(_Count)),
}
_ALIASES = {"ray_actor_options.runtime_env.env_vars": "runtime_env.env_vars"}
"""The place that Ray itself gives the variables, among an actor's options."""


def is_valid_name(name: str) -> bool:
    """Whether the name may be in the path of a model."""
    return _NAME.fullmatch(name) is not None


def read_options(model: str, tags: Mapping[str, str]) -> ServingOptions:
    """Reads the options of a model from its tags; tags that do not begin with `ray.` are not ours.

    Args:
        model: the registered name, which is the served name unless a tag says otherwise.
        tags: the tags of the version.

    Raises:
        Refused: a tag is not known or its value is not valid. The error says what it should be.
    """
    values: dict[str, Any] = {}
    problems = []
    for tag, text in sorted(tags.items()):
        if tag.startswith(_PREFIX):
            key = tag.removeprefix(_PREFIX)
            key = _ALIASES.get(key, key)
            if key not in _TAGS:
                near = difflib.get_close_matches(key, _TAGS, n=1)
                hint = f"; did you mean {_PREFIX}{near[0]}?" if near else ""
                problems.append(f"tag {tag} is not known{hint}")
                continue
            try:
                values[key] = _TAGS[key].read(text)
            except ValueError:
                problems.append(f"tag {tag} is {_quote(text)}; it should be {_TAGS[key].rule}")
    if "name" not in values and not is_valid_name(model):
        problems.append(f"{model!r} is not a valid name in a path; tag {_PREFIX}name should be {NAME_RULE}")
    scaling = {key.removeprefix(_SCALING): values[key] for key in values if key.startswith(_SCALING)}
    problems += _check_scaling(scaling, "num_replicas" in values)
    if problems:
        raise Refused("; ".join(problems), where=f"model {model}")
    return ServingOptions(
        name=values.get("name", model),
        num_replicas=values.get("num_replicas", 1),
        num_cpus=values.get("ray_actor_options.num_cpus", 0.0),
        memory=round(values.get("ray_actor_options.memory", 0) * 1e9),
        env_vars=values.get("runtime_env.env_vars", {}),
        autoscaling=Autoscaling(**scaling) if scaling else None,
        max_batch_size=values.get("user_config.max_batch_size", 1),
    )


def _quote(text: str) -> str:
    return repr(text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…")


def _check_scaling(scaling: Mapping[str, Any], has_number: bool) -> list[str]:
    if not scaling:
        return []
    problems = []
    if has_number:
        problems.append(
            f"tag {_PREFIX}num_replicas and tags {_PREFIX}{_SCALING}* exclude each other: set one kind"
        )
    bounds = Autoscaling(**scaling)
    if bounds.min_replicas > bounds.max_replicas:
        problems.append(
            f"tag {_PREFIX}{_SCALING}min_replicas is {bounds.min_replicas}; it should be at most max_replicas,"
            f" which is {bounds.max_replicas}"
        )
    return problems
