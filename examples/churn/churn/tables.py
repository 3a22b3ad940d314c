"""The tables: the customers with all columns that the file has, and the labels."""

from datetime import UTC, datetime

import dataframely as dy
import polars as pl

from churn.source import customers_file, rename
from headrace import table

# The file has no times: whatever it says about a customer holds from the beginning.
BEGINNING = datetime(2000, 1, 1, tzinfo=UTC)
YES_OR_NO = ("Churned", "HasPhoneService", "HasInternetService")


@table(reads=customers_file)
def customers(rows: pl.LazyFrame) -> pl.LazyFrame:
    """One row for each customer. A new column of the file becomes a new column here, without an edit."""
    rows = rename(rows)
    names = rows.collect_schema().names()
    return rows.with_columns(
        *(_is_yes(name) for name in YES_OR_NO if name in names), valid_from=pl.lit(BEGINNING)
    )


class ChurnLabels(dy.Schema):
    CustomerId = dy.String(nullable=False, primary_key=True)  # a customer is in the file once
    event_timestamp = dy.Datetime(time_unit="us", time_zone="UTC", nullable=False)
    Churned = dy.Int64(nullable=True)


@table(reads=customers, schema=ChurnLabels)
def churn_labels(customers: pl.LazyFrame) -> pl.LazyFrame:
    """Whether a customer has left: 1 or 0; null while it is not known."""
    return customers.select(
        "CustomerId", pl.col("valid_from").alias("event_timestamp"), pl.col("Churned").cast(pl.Int64)
    )


def _is_yes(column: str) -> pl.Expr:
    return pl.col(column).replace_strict({"Yes": True, "No": False}, return_dtype=pl.Boolean)
