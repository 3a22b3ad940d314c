"""A random number for each value, which depends on nothing but the value and a seed."""

from __future__ import annotations

from hashlib import blake2b

import polars as pl

__all__ = ["random_of"]


def random_of(values: pl.DataFrame, seed: int) -> pl.Series:
    """A number from 0 to 1 for each row of the frame, evenly distributed over distinct rows; equal rows have
    equal numbers.

    It is the same on every machine and for every order of the rows, and does not change when rows are added.
    """
    texts = values.select(
        pl.concat_list(pl.all().cast(pl.String).fill_null("\x01")).list.join("\x00").alias("text")
    )["text"]
    distinct = texts.unique()
    numbers = [
        int.from_bytes(blake2b(f"{seed}\x00{text}".encode(), digest_size=7).digest()) / 2**56
        for text in distinct.to_list()
    ]
    return texts.replace_strict(distinct, pl.Series(numbers, dtype=pl.Float64))
