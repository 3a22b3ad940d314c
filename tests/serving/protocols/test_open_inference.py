"""The Open Inference protocol: tensors as JSON and as bytes, metadata, health, and versions in the path."""

import struct

import httpx
import msgspec
import numpy as np
import pytest
from tests.serving.running import FEW_VIEWS, INSTANCE, run_endpoint, ship_predictions
from tests.serving.small_project import plan_of, put_release
from tests.until import until

from headrace.http.responses import HttpError
from headrace.serving.errors import RequestError
from headrace.serving.protocols.counting import MAX_INSTANCES
from headrace.serving.protocols.open_inference import decode, encode_error
from headrace.serving.protocols.status import to_response_error
from headrace.serving.release import Arm
from headrace.serving.request_schema import RequestSchema

INFER = "/v2/models/purchase/infer"
FEATURES = ("facts__mean_price", "facts__views")


@pytest.fixture
def client(project):
    with run_endpoint(project) as client:
        yield client


def tensor(name, datatype, values, shape=None):
    return {"name": name, "datatype": datatype, "shape": shape or [len(values)], "data": list(values)}


def inputs_of(instances):
    """The tensors of instances that have equal fields."""
    return [
        tensor(name, "FP64" if name == "price" else "INT64", [instance[name] for instance in instances])
        for name in instances[0]
    ]


def binary_request(arrays, **members):
    """Headers and body of a request, written from the protocol's text: JSON, then each array's bytes."""
    datatypes = {"<f4": "FP32", "<f8": "FP64", "<i8": "INT64", "|b1": "BOOL"}
    inputs, parts = [], []
    for name, array in arrays.items():
        if array.dtype.kind == "U":
            content = b"".join(struct.pack("<I", len(text)) + text for text in map(str.encode, array.tolist()))
            datatype = "BYTES"
        else:
            content, datatype = array.tobytes(), datatypes[array.dtype.str]
        size = {"binary_data_size": len(content)}
        inputs.append({"name": name, "shape": array.shape, "datatype": datatype, "parameters": size})
        parts.append(content)
    head = msgspec.json.encode({"inputs": inputs, **members})
    return {"Inference-Header-Content-Length": str(len(head))}, head + b"".join(parts)


def outputs_of(answer: httpx.Response):
    """name → values of a response's tensors, JSON or binary."""
    assert answer.status_code == 200, answer.text
    length = int(answer.headers.get("Inference-Header-Content-Length", len(answer.content)))
    rest, values = answer.content[length:], {}
    for output in msgspec.json.decode(answer.content[:length])["outputs"]:
        if "data" in output:
            values[output["name"]] = output["data"]
            continue
        size = output["parameters"]["binary_data_size"]
        content, rest = rest[:size], rest[size:]
        if output["datatype"] == "BYTES":
            texts = []
            while content:
                (count,) = struct.unpack("<I", content[:4])
                texts.append(content[4 : 4 + count].decode())
                content = content[4 + count :]
            values[output["name"]] = texts
        else:
            values[output["name"]] = np.frombuffer(
                content, {"FP64": "<f8", "INT64": "<i8"}[output["datatype"]]
            ).tolist()
    assert rest == b""
    return values


def native_values(client, instances):
    answer = client.post("/predict/purchase", json={"instances": instances})
    return [prediction["value"] for prediction in answer.json()["predictions"]]


@pytest.mark.parametrize("count", [1, 2, 300])
def test_json_and_binary_tensors_are_answered_like_the_own_protocol(client: httpx.Client, project, count):
    instances = [INSTANCE if n % 3 else FEW_VIEWS for n in range(count)]
    expected = native_values(client, instances)
    as_json = client.post(INFER, json={"inputs": inputs_of(instances), "id": "mine"})
    assert (as_json.json()["id"], as_json.json()["model_version"]) == ("mine", "1")
    arrays = {name: np.array([instance[name] for instance in instances]) for name in INSTANCE}
    headers, body = binary_request(arrays, parameters={"binary_data_output": True})
    as_bytes = client.post(INFER, content=body, headers=headers)  # without a content type, as Triton's client
    assert as_bytes.headers["content-type"] == "application/octet-stream"
    logged = ship_predictions(project)[count:]
    for number, answer in enumerate((outputs_of(as_json), outputs_of(as_bytes))):
        assert answer["predictions"] == expected
        assert answer["ids"] == [prediction.id for prediction in logged[number * count : (number + 1) * count]]
        assert (answer["versions"], answer["missing"]) == ([1] * count, [""] * count)


def test_outputs_are_those_that_the_client_asks_for(client: httpx.Client):
    outputs = [{"name": "missing"}, {"name": "predictions", "parameters": {"binary_data": True}}]
    answer = client.post(INFER, json={"inputs": inputs_of([INSTANCE]), "outputs": outputs})
    assert list(outputs_of(answer)) == ["missing", "predictions"]
    assert outputs_of(answer)["predictions"] == native_values(client, [INSTANCE])
    for name, text in (("more", "outputs: The outputs are"), ("probabilities", "outputs: The model has no")):
        refused = client.post(INFER, json={"inputs": inputs_of([INSTANCE]), "outputs": [{"name": name}]})
        assert refused.status_code == 422
        assert refused.json()["error"].startswith(text)


def test_rows_of_features_are_predicted_as_they_are_given(client: httpx.Client, project):
    rows = [[9.5, 190.0], [20.0, 10.0], [float("nan"), 10.0]]
    by_name = {name: np.array(column) for name, column in zip(FEATURES, zip(*rows, strict=True), strict=True)}
    expected = native_values(client, [INSTANCE, FEW_VIEWS])
    for arrays in ({"input-0": np.array(rows, np.float32)}, by_name):
        headers, body = binary_request(arrays)
        answer = outputs_of(client.post(INFER, content=body, headers=headers))
        assert answer["predictions"][:2] == expected
        assert answer["missing"] == ["", "", "facts__mean_price"]
    assert [prediction.features for prediction in ship_predictions(project)[-3:]] == [
        dict(zip(FEATURES, row, strict=True)) for row in ([9.5, 190], [20, 10], [None, 10])
    ]


def test_a_version_in_the_path_answers_by_that_version(client: httpx.Client, project):
    released = put_release(project, Arm(1, 0.5), Arm(2, 0.5, name="challenger"))
    until(lambda: client.get("/models").json()["models"]["purchase"]["release"]["id"] == released.id)
    users = [{**INSTANCE, "user_id": user} for user in range(40)]
    mixed = client.post(INFER, json={"inputs": inputs_of(users)})
    assert "model_version" not in mixed.json()
    assert set(outputs_of(mixed)["versions"]) == {1, 2}
    for version, has_many in ((1, True), (2, False)):
        path = f"/v2/models/purchase/versions/{version}"
        answer = client.post(f"{path}/infer", json={"inputs": inputs_of(users)})
        assert answer.json()["model_version"] == str(version)
        assert [value > 0.5 for value in outputs_of(answer)["predictions"]] == [has_many] * 40
        assert client.get(f"{path}/ready").status_code == 200
        assert client.get(path).json()["versions"] == ["1", "2"]
    absent = client.post("/v2/models/purchase/versions/3/infer", json={"inputs": inputs_of(users)})
    assert (absent.status_code, "version '3'" in absent.json()["error"]) == (404, True)
    assert client.get("/v2/models/purchase/versions/3/ready").status_code == 404


def test_metadata_and_health(client: httpx.Client):
    assert client.get("/v2").json()["extensions"] == ["binary_tensor_data"]
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    assert client.get("/v2/models/purchase/ready").json() == {"name": "purchase", "ready": True}
    model = client.get("/v2/models/purchase").json()
    assert {field["name"]: field["datatype"] for field in model["inputs"]} == {
        "user_id": "INT64",
        "product_id": "INT64",
        "price": "FP64",
    }
    assert client.get("/v2/models/absent").status_code == 404
    assert client.get("/v2/models/absent/ready").status_code == 404


def test_a_web_page_cannot_send_a_body_without_a_type(client: httpx.Client, project):
    headers, body = binary_request({name: np.array([value]) for name, value in INSTANCE.items()})
    refused = client.post(INFER, content=body, headers={**headers, "Origin": "https://evil.example"})
    assert refused.status_code == 415
    assert client.post("/predict/purchase", content=b"{}").status_code == 415
    assert ship_predictions(project) == []


VALID = tensor("user_id", "INT64", [1]), tensor("product_id", "INT64", [7]), tensor("price", "FP64", [3.5])


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        ([], "inputs: Expected `array` of length >= 1"),
        ([*VALID[:2]], "price: Object missing"),
        ([*VALID, VALID[0]], "inputs: Two inputs have the same name"),
        ([*VALID, tensor("prise", "FP64", [1.0])], "prise: Object contains unknown field"),
        ([*VALID[:2], tensor("price", "FP64", [1.0, 2.0])], "price: The tensor has 2 instances"),
        ([*VALID[:2], tensor("price", "FP64", [1.0, 2.0], [1])], "price: The data do not have the 1 elements"),
        ([*VALID[:2], tensor("price", "FP64", [1.0], [-1])], "inputs[2].shape[0]: Expected `int` >= 0"),
        ([*VALID[:2], tensor("price", "FP64", [1.0], [2**63])], "inputs[2].shape[0]: Expected `int` <="),
        ([*VALID[:2], tensor("price", "FP64", [1.0], [2**31 - 1] * 8)], "price: The first dimension must"),
        (
            [*VALID[:2], tensor("price", "FP64", [1.0], [1, *[2**31 - 1] * 7])],
            "values for each instance, and not one",
        ),
        ([*VALID[:2], tensor("price", "FP64", [1.0], [1.0])], "inputs[2].shape[0]: Expected `int`"),
        ([*VALID[:2], {**VALID[2], "shape": []}], "inputs[2].shape: Expected `array`"),
        ([*VALID[:2], tensor("price", "FP64", [], [0])], "price: The first dimension must"),
        ([*VALID[:2], tensor("price", "FP8", [1.0])], "price: The datatype must be"),
        ([*VALID[:2], tensor("price", "FP32", [1e39])], "price: The value is too large for FP32"),
        ([*VALID[:2], tensor("price", "FP64", ["1"])], "price: Expected `float | null`"),
        ([*VALID[:2], tensor("price", "FP64", [None])], "price: Expected `float`, got `null`"),
        ([*VALID[:2], tensor("price", "FP64", [True])], "price: Expected `float | null`"),
        ([*VALID[:2], tensor("price", "FP64", [[1.0, 2.0]], [1, 2])], "price: The tensor has 2 values"),
        ([*VALID[:2], tensor("price", "FP64", [[1.0]], [1])], "price: The data do not have the 1 elements"),
        ([*VALID[:2], tensor("price", "BYTES", ["a", [["b"]]], [2, 1])], "price: Expected `str | null`, got"),
        ([tensor("user_id", "FP64", [1.0]), *VALID[1:]], "user_id: Expected `int`, got `float`"),
        ([tensor("user_id", "INT8", [300]), *VALID[1:]], "user_id: Expected `int` <= 127"),
        ([tensor("user_id", "BYTES", ["1"]), *VALID[1:]], "user_id: Expected `int`, got `str`"),
        ([*VALID[:2], {"name": "price", "shape": [1], "datatype": "FP64"}], "price: The tensor has neither"),
        ([*VALID[:2], {**VALID[2], "parameters": {"binary_data_size": 8}}], "price: The tensor has both"),
        ([*VALID, tensor("facts__views", "FP64", [1.5])], "facts__views: It must be a whole number"),
        ([tensor("x", "FP64", [1.0, 2.0, 3.0], [1, 3])], "The list has 3 values, and the model has 2"),
        ([tensor("x", "BYTES", ["a", "b"], [1, 2])], "facts__mean_price: Expected"),
    ],
)
def test_an_invalid_tensor_is_refused_and_named(inputs, text):
    status, answer = error_of(msgspec.json.encode({"inputs": inputs}))
    assert (status, text in answer) == (422, True), answer


def error_of(body, *headers):
    with pytest.raises((HttpError, RequestError)) as caught:
        decode(RequestSchema([plan_of()]), {"query_string": b"", "headers": headers}, body)
    error = to_response_error(caught.value)
    return error.status, msgspec.json.decode(encode_error(error))["error"]


def test_an_error_names_the_instance_of_an_element():
    inputs = [tensor("user_id", "INT64", [1, 2]), tensor("product_id", "INT64", [7, "x"]), VALID[2]]
    assert error_of(msgspec.json.encode({"inputs": inputs}))[1].startswith("instances[1].product_id: ")
    _, body = binary_request({"facts__views": np.array([1.0, np.inf]), "price": np.array([1.0, np.nan])})
    length = (b"inference-header-content-length", str(body.rindex(b"}") + 1).encode())
    assert error_of(body, length) == (422, "instances[1].price: The value must be finite.")


@pytest.mark.parametrize("change", [-8, -1, 1, 8, 10**9, -(10**9)])
def test_bytes_that_do_not_have_the_stated_sizes_are_refused(change):
    headers, body = binary_request({name: np.array([value]) for name, value in INSTANCE.items()})
    length = int(headers["Inference-Header-Content-Length"])
    name = b"inference-header-content-length"
    assert error_of(
        body + b"x" * change if change > 0 and change < 100 else body[: -abs(change)],
        (name, str(length).encode()),
    )[0] in (400, 422)
    sizes = body[:length].replace(b'"binary_data_size":8', b'"binary_data_size":%d' % (8 + change), 1)
    assert error_of(sizes + body[length:], (name, str(len(sizes)).encode()))[0] == 422
    assert error_of(body, (name, str(length + change).encode()))[0] in (400, 422)
    assert error_of(body, (name, b"1_0")) == error_of(body, (name, "²".encode())) == error_of(body, (name, b""))


@pytest.mark.parametrize(
    "content", [b"\x01", b"\xff\xff\xff\xffa", b"\x02\0\0\0a", b"\x01\0\0\0\xff", b"\0\0\0\0\0\0\0\0", b""]
)
def test_text_that_is_not_as_its_lengths_say_is_refused(content):
    text = {
        "name": "user_id",
        "datatype": "BYTES",
        "shape": [1],
        "parameters": {"binary_data_size": len(content)},
    }
    head = msgspec.json.encode({"inputs": [text]})
    length = (b"inference-header-content-length", str(len(head)).encode())
    status, answer = error_of(head + content, length)
    assert (status, "user_id" in answer) == (422, True)


def test_up_to_10_000_instances_are_answered(client: httpx.Client):
    assert MAX_INSTANCES == 10_000
    instances = [INSTANCE, FEW_VIEWS] * 5_000
    expected = native_values(client, [INSTANCE, FEW_VIEWS])
    answer = outputs_of(client.post(INFER, json={"inputs": inputs_of(instances)}))
    assert answer["predictions"] == expected * 5_000
    assert client.post(INFER, json={"inputs": inputs_of([*instances, INSTANCE])}).status_code == 422
