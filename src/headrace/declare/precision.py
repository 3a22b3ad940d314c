"""Precision: how many digits a Decimal field has, so that it is stored as a decimal column."""

from __future__ import annotations

import attrs

from headrace.declare.place import Place
from headrace.kernel.errors import ProjectError

__all__ = ["Precision"]


@attrs.frozen
class Precision:
    """Store a `Decimal` field as a decimal column; without it the field is stored as text.

    A value with more digits, before or after the point, is refused as `out_of_range`; it is never rounded.

        class Order(Struct):
            total: Annotated[Decimal, Precision(12, 2)]  # up to 9,999,999,999.99

    Args:
        precision: the total number of digits, 1 to 38.
        scale: the number of digits after the point, 0 to `precision`.

    Raises:
        ProjectError: the numbers are out of range.
    """

    precision: int
    scale: int = 0

    def __attrs_post_init__(self) -> None:
        if not (1 <= self.precision <= 38 and 0 <= self.scale <= self.precision):
            raise ProjectError(
                f"Precision({self.precision}, {self.scale}) is not a valid decimal type",
                where=str(Place.of_caller()),
                remedy="Use 1 to 38 digits in total, of which any may be after the point.",
            )
