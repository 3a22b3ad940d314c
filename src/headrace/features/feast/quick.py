"""Feast imported without typeguard's run-time checks: 1.2 s of CPU instead of 4.1.

Feast marks its classes for typeguard, which then compiles each of their methods anew at import, in
every process. What the checks would find in a project's definitions, `compile` says with the place.
Whoever imports this room before the project's modules has the quick import; a process that has
imported Feast itself keeps Feast as it is.
"""

from __future__ import annotations

import sys
import warnings
from typing import Any

import typeguard


def _unchecked(target: Any = None, **_: Any) -> Any:
    """In the place of typeguard.typechecked: leaves what it is given as it is."""
    return (lambda given: given) if target is None else target


if "feast" not in sys.modules:
    _checked = typeguard.typechecked
    typeguard.typechecked = _unchecked
    try:
        # A dozen of its modules say which warnings the whole process shows: that stays who runs it's to say.
        with warnings.catch_warnings():
            import feast  # noqa: F401
    finally:
        typeguard.typechecked = _checked
