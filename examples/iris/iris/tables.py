"""The table of measured flowers."""

from datetime import UTC, datetime

import dataframely as dy
import polars as pl

from headrace import params, source, table

MEASUREMENTS = ("sepal_length", "sepal_width", "petal_length", "petal_width")  # in cm
PUBLISHED = datetime(1936, 9, 1, tzinfo=UTC)  # the data say no other time

iris_file = source(
    "iris",
    "data/iris.csv",
    schema={"flower": int, **dict.fromkeys(MEASUREMENTS, float), "species": str},
    revision=params("data"),
)


class Flowers(dy.Schema):
    flower = dy.Int64(nullable=False, primary_key=True)
    event_timestamp = dy.Datetime(time_unit="us", time_zone="UTC", nullable=False)
    sepal_length = dy.Float64(nullable=False, min_exclusive=0)
    sepal_width = dy.Float64(nullable=False, min_exclusive=0)
    petal_length = dy.Float64(nullable=False, min_exclusive=0)
    petal_width = dy.Float64(nullable=False, min_exclusive=0)
    species = dy.String(nullable=False)


@table(reads=iris_file, schema=Flowers)
def flowers(rows: pl.LazyFrame) -> pl.LazyFrame:
    """The measurements of each flower, and its species."""
    return rows.select(
        "flower", pl.lit(PUBLISHED, pl.Datetime("us", "UTC")).alias("event_timestamp"), *MEASUREMENTS, "species"
    )
