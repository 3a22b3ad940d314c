"""Digits: how many digits a Decimal of a contract has, so that it is stored as a decimal column."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.kernel.errors import ProjectError

__all__ = ["Digits"]


@dataclass(frozen=True)
class Digits:
    """Stands in `Annotated[Decimal, Digits(12, 2)]`. A value that does not fit is refused, not rounded.

    Attributes:
        precision: digits in all, 1 to 38.
        scale: how many of them stand behind the point.
    """

    precision: int
    scale: int = 0

    def __post_init__(self) -> None:
        if not (1 <= self.precision <= 38 and 0 <= self.scale <= self.precision):
            raise ProjectError(
                f"Digits({self.precision}, {self.scale}) cannot be stored",
                remedy="It takes 1 to 38 digits, and no more behind the point than there are.",
            )
