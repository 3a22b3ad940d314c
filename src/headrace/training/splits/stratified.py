"""Splits rows at random, with the same share of each class in every part."""

from __future__ import annotations

import polars as pl

from headrace.declare.splits import Stratified
from headrace.kernel.errors import Refused
from headrace.training.splits.hashing import random_of
from headrace.training.splits.port import MOMENT, Fold, LabelledFrame, Parts

__all__ = ["divide_stratified"]

_PLACE, _ROWS = "__place", "__rows"  # no column of a training set begins with __


def divide_stratified(frame: LabelledFrame, split: Stratified) -> Parts:
    """Orders the rows of each class by a hash of their keys, and cuts each class at the declared shares.

    Rows without keys are hashed by all their columns but the target.

    A target that is not a class is one class. Each part gets at least one row of every class.

    Raises:
        Refused: a class has fewer than three rows.
    """
    stratum = frame.target if frame.by_class else pl.lit(0)
    order = ["__random", MOMENT]
    hashed = frame.keys or [name for name in frame.rows.columns if name != frame.target]
    placed = (
        frame.rows.with_columns(__random=random_of(frame.rows.select(hashed), split.seed))
        .sort(order, maintain_order=True)
        .with_columns(pl.int_range(pl.len()).over(stratum).alias(_PLACE), pl.len().over(stratum).alias(_ROWS))
    )
    _check_rows(placed, frame)
    test = _share(split.test)
    validation = test + _share(split.validation)
    place = pl.col(_PLACE)
    masks = place >= validation, (place >= test) & (place < validation), place < test
    added = ["__random", _PLACE, _ROWS]
    parts = (placed.filter(mask).drop(added).sort(MOMENT, maintain_order=True) for mask in masks)
    by = f", stratified by {frame.target}" if frame.by_class else ""
    return Parts((Fold(*parts),), f"random{by}, seed {split.seed}; not by time")


def _share(share: float) -> pl.Expr:
    """How many rows of its class a part gets: at least one, and one is left for each other part."""
    return (pl.col(_ROWS) * share).round().cast(pl.Int64).clip(1, None)


def _check_rows(placed: pl.DataFrame, frame: LabelledFrame) -> None:
    sizes = placed.select(_ROWS, frame.target).sort(_ROWS).head(1).rows()
    rows, label = sizes[0] if sizes else (0, None)
    if rows < 3:
        name = f"the class {label!r} of {frame.target}" if frame.by_class and sizes else "the target"
        raise Refused(
            f"{name} has {rows} rows, and each of the three parts needs one",
            remedy="Add labels, or leave out the rows of rare classes in the table of labels.",
        )
