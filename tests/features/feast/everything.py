"""A project that has every kind of view, aggregate, type and name at once."""

EVENTS = """
from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Literal
from headrace import Precision, Struct, event

@event(topic="deeds", time="at", key="user_id", timezone="Europe/Berlin", max_ahead="1d",
    time_formats=["rfc3339", "%Y-%m-%d %H:%M:%S"])
class Deed(Struct):
    at: datetime
    user_id: int
    place: str
    peer_id: int | None = None
    number: int | None = None
    amount: float | None = None
    price: Annotated[Decimal, Precision(38, 9)] | None = None
    fee: Decimal | None = None
    flag: bool | None = None
    since: datetime | None = None
    day: date | None = None
    kind: Literal["a", "b", "é"] | None = None
    tags: list[str] | None = None
"""

TABLES = """
import dataframely as dy
import polars as pl
from headrace import day, table
from everything.events import Deed

INSTANT = dict(time_unit="us", time_zone="UTC")

class Paid(dy.Schema):
    at = dy.Datetime(**INSTANT)
    user_id = dy.Int64()
    shop = dy.String()
    price = dy.Decimal(38, 9, nullable=True)
    number = dy.Int64(nullable=True)
    small = dy.Int32(nullable=True)
    day = dy.Date(nullable=True)

@table(reads=Deed, partition_by=day("at"), rowwise=True, schema=Paid)
def paid(deeds):
    rows = deeds.filter(pl.col("price").is_not_null()).select(
        "at", "user_id", "price", "number", "day", "_known_at", shop="place",
        small=(pl.col("number") % 1000).cast(pl.Int32))
    return pl.concat([rows, rows.with_columns(price=-pl.col("price"), shop=pl.lit("back"))])

@table(reads=Deed)
def profiles(deeds):
    berlin = pl.col("at").dt.convert_time_zone("Europe/Berlin")
    return deeds.select(
        who="user_id", known=berlin, made="_log_offset", said="tags", since="since", day="day",
        price=pl.col("price"), small=pl.col("number").cast(pl.Int32, strict=False),
        half=pl.col("amount").cast(pl.Float32), kind=pl.col("kind").cast(pl.Categorical), flag="flag")

@table(reads=Deed)
def market(deeds):
    return deeds.select(event_timestamp=pl.col("at").dt.replace_time_zone(None), total="number", mood="kind")
"""

FEATURES = """
from datetime import timedelta
from feast import Aggregation, Entity, FeatureService, FeatureView, Field, StreamFeatureView, ValueType
from feast.data_source import PushSource, RequestSource
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Array, Bool, Float32, Float64, Int32, Int64, String, UnixTimestamp
from headrace import TableSource
from everything.events import Deed
from everything.tables import market, paid, profiles

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
shop = Entity(name="shop", join_keys=["shop"], value_type=ValueType.STRING)
TYPES = {"int64": Int64, "float64": Float64, "string": String, "bool": Bool, "timestamp": UnixTimestamp}
SPANS = {"1h": HOUR, "1d": DAY, "40d": 40 * DAY, "1d_7d": DAY, "90m_5m": timedelta(minutes=90), "ever": None}
OFFSETS = {"1d_7d": "7d", "90m_5m": "5m"}
NUMERIC = ["sum", "mean", "avg", "var", "variance", "std", "stddev", "percentile(50)", "percentile(99)"]
ORDERED = ["count", "count_distinct", "approx_count_distinct", "min", "max", "first", "last", "top_k(2)",
    "first(2)", "last(3)"]

def result(function, column):
    if function in ("count", "count_if", "count_distinct", "approx_count_distinct"):
        return Int64
    if function.startswith("percentile") or function in ("mean", "avg", "var", "variance", "std", "stddev"):
        return Float64
    if function == "sum":
        return Float64 if column == "float64" else Int64
    return Array(TYPES[column]) if "(" in function else TYPES[column]

def windows(name, table, columns, keys):
    aggregations, schema, tags = [], [], {}
    for column, dtype in columns.items():
        functions = ORDERED + (NUMERIC if dtype in ("int64", "float64", "bool") else [])
        for function in functions + (["count_if"] if dtype == "bool" else []):
            for span, length in SPANS.items():
                feature = f"{column}_{function.replace('(', '_').replace(')', '')}_{span}"
                aggregations.append(
                    Aggregation(column=column, function=function, time_window=length, name=feature))
                schema.append(Field(name=feature, dtype=result(function, dtype)))
                if span in OFFSETS:
                    tags[f"offset.{feature}"] = OFFSETS[span]
    source = PushSource(name=f"{name}_stream", batch_source=TableSource(table))
    return StreamFeatureView(name=name, entities=keys, timestamp_field="at", source=source, tags=tags,
        aggregations=aggregations, schema=schema)

deeds = windows("deeds", Deed, {"number": "int64", "amount": "float64", "fee": "float64", "flag": "bool",
    "since": "timestamp", "day": "timestamp", "kind": "string"}, [user])
sales = windows("sales", paid, {"price": "float64", "small": "int64", "day": "timestamp"}, [user, shop])

profile = FeatureView(name="profile", entities=[user], ttl=30 * DAY,
    source=TableSource(profiles, "known", field_mapping={"who": "user_id", "known": "from", "said": "tags"},
        created_timestamp_column="made"),
    schema=[Field(name="tags", dtype=Array(String)), Field(name="since", dtype=UnixTimestamp),
        Field(name="day", dtype=UnixTimestamp), Field(name="price", dtype=Float64),
        Field(name="small", dtype=Int32), Field(name="half", dtype=Float32), Field(name="kind", dtype=String),
        Field(name="flag", dtype=Bool)])
all_places = FeatureView(name="all_places", entities=[], source=TableSource(market, "event_timestamp"),
    schema=[Field(name="total", dtype=Int64), Field(name="mood", dtype=String)])
service = FeatureService(name="everything", features=[
    deeds, sales, profile.with_name("own"),
    profile.with_name("peer").with_join_key_map({"user_id": "peer_id"}), all_places])
"""
