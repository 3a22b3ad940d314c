from datetime import timedelta

from feast import Aggregation, Entity, FeatureService, Field, StreamFeatureView, ValueType
from feast.data_source import PushSource, RequestSource
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, Int64

from headrace import TableSource
from payments.tables import card_payments

DAY = timedelta(days=1)

card = Entity(name="card", join_keys=["card"], value_type=ValueType.INT64)

card_activity = StreamFeatureView(
    name="card_activity",
    entities=[card],
    source=PushSource(name="card_payments_stream", batch_source=TableSource(card_payments)),
    timestamp_field="paid_at",
    aggregations=[
        Aggregation(column="refused", function="count", time_window=DAY, name="refused_1d"),
        Aggregation(column="amount", function="mean", time_window=DAY, name="mean_amount_1d"),
    ],
    schema=[Field(name="refused_1d", dtype=Int64), Field(name="mean_amount_1d", dtype=Float64)],
)

asked = RequestSource(name="asked", schema=[Field(name="amount", dtype=Float64)])


@on_demand_feature_view(
    sources=[card_activity, asked],
    schema=[Field(name="amount_vs_usual", dtype=Float64)],
    mode="python",
    singleton=True,
)
def request(inputs):
    usual = inputs["mean_amount_1d"]
    return {"amount_vs_usual": None if usual is None else inputs["amount"] / usual}


refusal_features = FeatureService(name="refusal", features=[card_activity, request])
