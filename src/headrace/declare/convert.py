"""Converters of declared values. Each reports an invalid value at the line that declares it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from headrace.declare.place import Place
from headrace.kernel.errors import ProjectError
from headrace.kernel.time import parse_duration

__all__ = ["to_duration", "to_optional_duration", "to_tuple"]


def to_duration(value: str | timedelta) -> timedelta:
    """Converts text such as `30m`, `1d` or `1h30m` to a duration.

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
    """Converts a duration (see to_duration); None stays None."""
    return None if value is None else to_duration(value)


def to_tuple(names: str | Sequence[str]) -> tuple[str, ...]:
    """Converts texts to a tuple; one text becomes a tuple of one."""
    return (names,) if isinstance(names, str) else tuple(names)
