"""What a part must have: rows, and classes to learn or to compare."""

from __future__ import annotations

import polars as pl

from headrace.kernel.errors import Refused

__all__ = ["check_classes", "is_sufficient", "least_classes"]


def least_classes(part: str, classes: int) -> int:
    """How many of the target's classes the part must have; 0 if the target is not a class."""
    if not classes:
        return 0
    return max(2, classes) if part == "train" else 2


def is_sufficient(part: str, target: pl.Series, classes: int) -> bool:
    """Whether a part with this target has rows, and the classes that it needs."""
    return len(target) > 0 and (not classes or target.n_unique() >= least_classes(part, classes))


def check_classes(where: str, part: str, target: pl.Series, classes: int) -> None:
    """Checks that a part which is not empty has the classes that it needs.

    Args:
        where: the part, for the message.
        part: its name: train, validation or test.
        target: its target.
        classes: how many classes the whole target has; 0 if it is not a class.

    Raises:
        Refused: a class is missing.
    """
    present = target.n_unique()
    if present == 1 and classes:
        raise Refused(
            f"{where} has only one class: {target.name} is always {target[0]}",
            remedy="Add labels, or declare a larger share for this part.",
        )
    if present < least_classes(part, classes):
        raise Refused(
            f"{where} has {present} of the {classes} classes of {target.name}",
            remedy="The model must learn every class: add labels, or declare a larger share for this part.",
        )
