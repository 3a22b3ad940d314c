"""The port of the protocols: a second one is added as one module, with its own paths, bodies and errors."""

import httpx
import msgspec
import pytest
from tests.serving.running import INSTANCE, run_endpoint, ship_predictions

from headrace.http.responses import HttpError
from headrace.serving import endpoint
from headrace.serving.protocols import PROTOCOLS
from headrace.serving.protocols.port import DecodedRequest, PredictRoute, ReadRoute, Response


class ColumnProtocol:
    """A protocol that takes a list of values for each field, and gives a list of predictions."""

    def __init__(self):
        self.ROUTES = (
            PredictRoute("/columns/{model}:predict", self.decode, dict, {}, "Predict columns"),
            ReadRoute("/columns/{model}", self.read, "The fields"),
        )

    def decode(self, schema, scope, body):
        columns = msgspec.json.decode(body, type=dict[str, list])
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        instances = msgspec.convert(rows, list[schema.instance_types[0]])
        return DecodedRequest(schema.to_values(instances), self.encode)

    def encode(self, predictions):
        return Response(msgspec.json.encode([prediction.value for prediction in predictions]))

    def read(self, models, names):
        return msgspec.json.encode(models.find(names["model"]).schema.fields)

    def encode_error(self, error: HttpError):
        return msgspec.json.encode({"problem": error.message})


@pytest.fixture
def client(project, monkeypatch):
    monkeypatch.setattr(endpoint, "PROTOCOLS", (*PROTOCOLS, ColumnProtocol()))
    with run_endpoint(project) as client:
        yield client


def test_both_protocols_answer_by_the_same_predictor(client: httpx.Client, project):
    columns = {"user_id": [1, 1], "product_id": [7, 8], "price": [3.5, 3.5]}
    values = client.post("/columns/purchase:predict", json=columns).json()
    assert values[0] > 0.5 > values[1]
    assert client.post("/predict/purchase", json=INSTANCE).json()["value"] == values[0]
    assert [prediction.value for prediction in ship_predictions(project)] == [*values, values[0]]
    assert client.get("/columns/purchase").json() == {
        "user_id": "int64",
        "product_id": "int64",
        "price": "float64",
    }


def test_each_protocol_encodes_all_errors_of_its_paths(client: httpx.Client):
    unknown = client.post("/columns/absent:predict", json={})
    assert (unknown.status_code, list(unknown.json())) == (404, ["problem"])
    form = client.post("/columns/purchase:predict", data={"a": 1})  # the middleware refuses its content type
    assert (form.status_code, list(form.json())) == (415, ["problem"])
    assert list(client.get("/columns/absent").json()) == ["problem"]
    assert list(client.post("/predict/absent", json={}).json()) == ["error"]
    assert client.get("/columns/purchase:predict").status_code == 405
