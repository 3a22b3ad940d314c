"""The record of a prediction: its value may be a number, a label or a list, also in the topic's table."""

from datetime import UTC, datetime

import msgspec
import pytest

from headrace.events.contracts.shape import table_schema
from headrace.serving.prediction import Prediction


def prediction_with(value):
    return Prediction(
        id="0199d0a5-0000-7000-8000-000000000001",
        model="purchase",
        version=1,
        plan="0" * 32,
        arm="champion",
        shadow=False,
        at=datetime(2026, 1, 1, tzinfo=UTC),
        instance=0,
        entity={"user_id": 1},
        request={},
        features={},
        value=value,
        latency_ms=0.25,
        missing=[],
        positions={},
        release="0199d0a5-0000-7000-8000-000000000002",
    )


@pytest.mark.parametrize("value", [0.25, "cat", [0.25, 0.75]])
def test_a_value_is_a_number_a_label_or_a_list(value):
    prediction = prediction_with(value)
    decoded = msgspec.json.decode(msgspec.json.encode(prediction), type=Prediction)
    assert decoded == prediction
    assert type(decoded.value) is type(value)


def test_the_contract_names_the_columns_of_the_table():
    schema = table_schema(Prediction.__contract__)
    assert {"id", "model", "version", "plan", "instance", "value", "latency_ms"} <= set(schema.names)
