"""The features of the shop's model at the moment when a customer looks at a product, as stock Feast objects."""

from datetime import timedelta

from feast import Aggregation, Entity, FeatureService, FeatureView, Field, StreamFeatureView, ValueType
from feast.data_source import PushSource, RequestSource
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, Int64, String

from headrace import TableSource
from shop.tables import clean_events, product_facts

HOUR, DAY = timedelta(hours=1), timedelta(days=1)

user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
product = Entity(name="product", join_keys=["product_id"], value_type=ValueType.INT64)

clean_events_stream = PushSource(name="clean_events_stream", batch_source=TableSource(clean_events))

user_activity = StreamFeatureView(
    name="user_activity",
    entities=[user],
    source=clean_events_stream,
    timestamp_field="event_time",
    aggregations=[
        Aggregation(column="event_type", function="count", time_window=HOUR, name="events_1h"),
        Aggregation(column="viewed_product", function="count", time_window=HOUR, name="views_1h"),
        Aggregation(column="carted_product", function="count", time_window=HOUR, name="carts_1h"),
        Aggregation(column="purchased_product", function="count", time_window=HOUR, name="purchases_1h"),
        Aggregation(column="product_id", function="count_distinct", time_window=HOUR, name="products_1h"),
        Aggregation(column="price", function="mean", time_window=HOUR, name="price_1h"),
        Aggregation(column="event_type", function="count", time_window=DAY, name="events_1d"),
        Aggregation(column="viewed_product", function="count", time_window=DAY, name="views_1d"),
        Aggregation(column="carted_product", function="count", time_window=DAY, name="carts_1d"),
        Aggregation(column="purchased_product", function="count", time_window=DAY, name="purchases_1d"),
        Aggregation(column="purchased_value", function="sum", time_window=DAY, name="spent_1d"),
    ],
    schema=[
        Field(name="events_1h", dtype=Int64),
        Field(name="views_1h", dtype=Int64),
        Field(name="carts_1h", dtype=Int64),
        Field(name="purchases_1h", dtype=Int64),
        Field(name="products_1h", dtype=Int64),
        Field(name="price_1h", dtype=Float64),
        Field(name="events_1d", dtype=Int64),
        Field(name="views_1d", dtype=Int64),
        Field(name="carts_1d", dtype=Int64),
        Field(name="purchases_1d", dtype=Int64),
        Field(name="spent_1d", dtype=Float64),
    ],
)

product_day = FeatureView(
    name="product_facts",
    entities=[product],
    source=TableSource(product_facts),
    ttl=timedelta(days=7),
    schema=[
        Field(name="views", dtype=Int64),
        Field(name="carts", dtype=Int64),
        Field(name="purchases", dtype=Int64),
        Field(name="mean_price", dtype=Float64),
        Field(name="consideration", dtype=Float64),
    ],
)

asked = RequestSource(
    name="asked", schema=[Field(name="price", dtype=Float64), Field(name="event_type", dtype=String)]
)


@on_demand_feature_view(
    sources=[product_day, asked],
    schema=[
        Field(name="price_vs_usual", dtype=Float64),
        Field(name="cart_rate", dtype=Float64),
        Field(name="is_cart", dtype=Int64),
    ],
    mode="python",
    singleton=True,
)
def moment(inputs):
    """Features known only at the request: the price, and whether the product is put into the cart."""
    usual, views, carts = inputs["mean_price"], inputs["views"], inputs["carts"]
    return {
        "price_vs_usual": None if usual is None else inputs["price"] / usual,
        "cart_rate": None if not views else carts / views,
        "is_cart": int(inputs["event_type"] == "cart"),
    }


purchase_features = FeatureService(name="purchase", features=[user_activity, product_day, moment])
