import dataframely as dy
import polars as pl

from headrace import day, table
from payments.events import Payment


class CardPayments(dy.Schema):
    card = dy.Int64()
    paid_at = dy.Datetime(time_unit="us", time_zone="UTC")
    amount = dy.Float64(min=0)
    refused = dy.Int64(nullable=True)  # null if it was not refused: windows count what is not null


@table(reads=Payment, partition_by=day("paid_at"), rowwise=True, schema=CardPayments)
def card_payments(payments: pl.LazyFrame) -> pl.LazyFrame:
    refused = pl.when("is_refused").then("card")
    return payments.select("card", "paid_at", "amount", "_known_at", refused=refused)


@table(reads=Payment, partition_by=day("event_timestamp"))
def payment_labels(payments: pl.LazyFrame) -> pl.LazyFrame:
    return payments.select(
        "card", "amount", event_timestamp="paid_at", is_refused=pl.col("is_refused").cast(pl.Int64)
    )
