"""The tables: the customers with all columns that the file has, and the labels."""

from datetime import UTC, datetime

import dataframely as dy
import polars as pl

from churn.source import customers_file, rename
from headrace import Refused, table

# The file has no times: whatever it says about a customer holds from the beginning.
BEGINNING = datetime(2000, 1, 1, tzinfo=UTC)
ANSWERS = ("Churned", "HasPhoneService", "HasInternetService")
YES_OR_NO = {"Yes": True, "No": False}


@table(reads=customers_file)
def customers(rows: pl.LazyFrame) -> pl.LazyFrame:
    """One row for each customer. A new column of the file becomes a new column here, without an edit."""
    rows = rename(rows)
    answers = [name for name in rows.collect_schema().names() if name in ANSWERS]
    _check_answers(rows, answers)
    as_boolean = pl.col(answers).replace_strict(YES_OR_NO, return_dtype=pl.Boolean)
    return rows.with_columns(as_boolean, valid_from=pl.lit(BEGINNING))


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


def _check_answers(rows: pl.LazyFrame, columns: list[str]) -> None:
    """Refuses a file that says something else than Yes or No."""
    for column in columns:
        answer = pl.col(column).cast(pl.String)
        wrong = rows.filter(~answer.is_in(list(YES_OR_NO))).select("CustomerId", answer).head(1)
        for customer, value in wrong.collect().rows():
            raise Refused(
                f"column {column!r} says {value!r}, which is neither Yes nor No",
                where=f"{customers_file.path}, customer {customer}",
                remedy="Correct the file.",
            )
