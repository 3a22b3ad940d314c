"""Converters of declared values. Each reports a malformed one at the line that declares it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from headrace.declare.place import Place
from headrace.kernel.errors import ProjectError
from headrace.kernel.time import parse_duration

__all__ = ["to_duration", "to_optional_duration", "to_tuple"]


def to_duration(value: str | timedelta) -> timedelta:
    """A duration from text such as `30m`, `1d` or `1h30m`.

    Raises:
        ProjectError: the value is not a duration.
    """
    try:
        return parse_duration(value)
    except ValueError as error:
        raise ProjectError(
            str(error), where=str(Place.of_caller()), remedy='Write it as "30m", "1d" or "1h30m".'
        ) from error


def to_optional_duration(value: str | timedelta | None) -> timedelta | None:
    """A duration, or None for None; see to_duration."""
    return None if value is None else to_duration(value)


def to_tuple(names: str | Sequence[str]) -> tuple[str, ...]:
    """A tuple of texts; one text is a tuple of one."""
    return (names,) if isinstance(names, str) else tuple(names)
