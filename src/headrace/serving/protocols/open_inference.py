"""The Open Inference protocol, also called V2 (https://github.com/kserve/open-inference-protocol).

POST /v2/models/{model}/infer                       named tensors in, named tensors out; as JSON or binary
POST /v2/models/{model}/versions/{version}/infer    the same, by this version of the release
GET  /v2, /v2/models/{model}, /v2/models/{model}/versions/{version}    metadata
GET  /v2/health/live, /v2/health/ready, /v2/models/{model}/ready, /v2/models/{model}/versions/{version}/ready

An input tensor has the values of one field, one for each instance: its shape is [n] or [n, 1]. A single tensor
of another name with the shape [n, features] has the model's features, in its order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence, Set
from functools import partial
from importlib.metadata import version as package_version
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from headrace.http.asgi import Scope, find_header
from headrace.http.responses import HttpError
from headrace.kernel.errors import Unavailable
from headrace.serving.errors import WrongValue, unknown_version
from headrace.serving.models import Models
from headrace.serving.prediction import Prediction
from headrace.serving.protocols.counting import MAX_INSTANCES, CountedObject, check_number
from headrace.serving.protocols.instances import convert_instances, decode_json
from headrace.serving.protocols.json_schema import TEXT, list_schema, object_schema
from headrace.serving.protocols.port import JSON, DecodedRequest, PredictRoute, ReadRoute, Response
from headrace.serving.protocols.status import describe_error
from headrace.serving.protocols.tensors import (
    DATATYPES,
    InputTensor,
    OutputTensor,
    Tensor,
    decode_tensor,
    encode_bytes,
    output_tensor,
)
from headrace.serving.request_schema import InstanceSchema, takes_lists

__all__ = ["ROUTES", "decode", "encode_error"]

_encode = msgspec.json.Encoder().encode
_JSON_LENGTH = "Inference-Header-Content-Length"
_BINARY = b"application/octet-stream"
_NOT_GIVEN, _TRUE = Raw(b""), b"true"
_OUTPUTS = ("predictions", "probabilities", "ids", "versions", "missing")
_DATATYPES = {
    "int64": "INT64",
    "float64": "FP64",
    "bool": "BOOL",
    "long": "INT64",
    "integer": "INT32",
    "double": "FP64",
    "float": "FP32",
    "boolean": "BOOL",
}
"""Dtype of a field, or MLflow's type → datatype; BYTES for any other."""


class _OutputParameters(Struct):
    """The parameters of an output."""

    binary_data: Raw = _NOT_GIVEN


class _Output(Struct):
    """An output that the client asks for."""

    name: str
    parameters: _OutputParameters | None = None


class _RequestParameters(Struct):
    """The parameters of a request."""

    binary_data_output: Raw = _NOT_GIVEN


class _InferRequest(Struct):
    """The JSON of a request. Members that are not listed here are other clients' and are ignored."""

    inputs: Annotated[list[InputTensor], Meta(min_length=1, max_length=MAX_INSTANCES)]
    id: str | None = None
    outputs: list[_Output] | None = None
    parameters: _RequestParameters | None = None


class _Outline(Struct):
    """A request of which only the tensors are counted."""

    inputs: list[CountedObject] | UnsetType = UNSET
    outputs: list[CountedObject] | None = None


_decode_request = msgspec.json.Decoder(_InferRequest).decode
_OUTLINES: list[Callable[[bytes], Any]] = [msgspec.json.Decoder(_Outline).decode]


def decode(schema: InstanceSchema, scope: Scope, body: bytes) -> DecodedRequest:
    """Decodes an inference request.

    Raises:
        HttpError: 400: the JSON is not valid, or the request has a query.
        MissingField, UnknownField, WrongValue: a tensor is not valid, or an instance does not fit the schema.
    """
    if scope["query_string"]:
        raise HttpError(400, "query", "This protocol has no query parameters.")
    length = _json_length(scope, len(body))
    head = body[:length]
    check_number(head, _OUTLINES, "inputs")
    request: _InferRequest = decode_json(_decode_request, head)
    outputs = [output.name for output in request.outputs or ()]
    if not set(outputs) <= set(_OUTPUTS):
        raise WrongValue(f"The outputs are {', '.join(_OUTPUTS)}.", field="outputs")
    if len(set(outputs)) != len(outputs):
        raise WrongValue("Two outputs have the same name.", field="outputs")
    is_matrix = _is_matrix(schema, request.inputs)
    for tensor in request.inputs:
        _check_width(schema, tensor, is_matrix=is_matrix)
    nullable = {tensor.name for tensor in request.inputs} if is_matrix else schema.nullable
    tensors = _decode_tensors(request.inputs, body[length:], nullable)
    rows = _to_rows(schema, tensors, is_matrix=is_matrix)
    return DecodedRequest(convert_instances(schema, rows), partial(_encode_predictions, request=request))


def encode_error(error: HttpError) -> bytes:
    """`{"error": "instances[1].store: ..."}`."""
    return _encode({"error": describe_error(error)})


def _json_length(scope: Scope, length: int) -> int:
    """How many bytes of the body are JSON."""
    header = find_header(scope, _JSON_LENGTH.lower().encode())
    if header is None:
        return length
    text = header.strip()
    if not text.isdigit() or len(text) > len(str(length)) or int(text) > length:
        raise HttpError(400, "json_length", f"{_JSON_LENGTH} must be a number of the body's bytes.")
    return int(text)


def _decode_tensors(inputs: Sequence[InputTensor], content: bytes, nullable: Set[str]) -> list[Tensor]:
    names = [tensor.name for tensor in inputs]
    if len(set(names)) != len(names):
        raise WrongValue("Two inputs have the same name.", field="inputs")
    sizes = [tensor.binary_size for tensor in inputs]
    total = sum(size for size in sizes if size is not None)
    if total != len(content):
        raise WrongValue(
            f"The binary tensors have {total} bytes, and {len(content)} bytes follow the JSON.", field="inputs"
        )
    tensors = []
    place = 0
    for tensor, size in zip(inputs, sizes, strict=True):
        part = None if size is None else content[place : place + size]
        place += size or 0
        tensors.append(decode_tensor(tensor, part, is_nullable=tensor.name in nullable))
    return tensors


def _is_matrix(schema: InstanceSchema, inputs: Sequence[InputTensor]) -> bool:
    """Whether the only tensor has the values of all features."""
    (first, *others) = inputs
    is_field = first.name in schema.fields or first.name in schema.features
    return not others and not is_field and len(first.shape) == 2


def _check_width(schema: InstanceSchema, tensor: InputTensor, *, is_matrix: bool) -> None:
    """Checks that the shape is that of a matrix of features, or of one value for each instance."""
    if tensor.shape[0] == 0 or tensor.shape[0] > MAX_INSTANCES:
        raise WrongValue(f"The first dimension must be 1 to {MAX_INSTANCES}.", field=tensor.name)
    width = math.prod(tensor.shape[1:])
    if is_matrix:
        schema.check_list(width)
    elif not takes_lists(schema.find_dtype(tensor.name)) and width != 1:
        raise WrongValue(f"The tensor has {width} values for each instance, and not one.", field=tensor.name)


def _to_rows(schema: InstanceSchema, tensors: Sequence[Tensor], *, is_matrix: bool) -> list[Any]:
    """The instances: lists of a matrix's rows, or objects."""
    first = tensors[0]
    if is_matrix:
        return _split(first, first.width or 0)
    columns = {}
    for tensor in tensors:
        if tensor.rows != first.rows:
            raise WrongValue(
                f"The tensor has {tensor.rows} instances, and {first.name!r} has {first.rows}.",
                field=tensor.name,
            )
        dtype = schema.find_dtype(tensor.name)
        is_list = tensor.width is not None and (tensor.width != 1 or dtype.startswith("list["))
        columns[tensor.name] = _split(tensor, tensor.width or 0) if is_list else tensor.values
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _split(tensor: Tensor, width: int) -> list[list[Any]]:
    return [tensor.values[index * width : (index + 1) * width] for index in range(tensor.rows)]


def _encode_predictions(predictions: Sequence[Prediction], *, request: _InferRequest) -> Response:
    tensors = _output_tensors(predictions)
    wanted = request.outputs or [_Output(name) for name in tensors]
    all_binary = request.parameters is not None and bytes(request.parameters.binary_data_output) == _TRUE
    outputs: list[dict[str, Any]] = []
    parts: list[bytes] = []
    for output in wanted:
        if output.name not in tensors:
            raise WrongValue(f"The model has no {output.name}.", field="outputs")
        tensor = tensors[output.name]
        members: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
        parameters = tensor.parameters
        given = _NOT_GIVEN if output.parameters is None else output.parameters.binary_data
        if all_binary if given is _NOT_GIVEN else bytes(given) == _TRUE:
            parts.append(encode_bytes(tensor))
            parameters = {**parameters, "binary_data_size": len(parts[-1])}
        else:
            members["data"] = tensor.values
        if parameters:
            members["parameters"] = parameters
        outputs.append(members)
    body: dict[str, Any] = {"model_name": predictions[0].model}
    versions = {prediction.version for prediction in predictions}
    if len(versions) == 1:
        body["model_version"] = str(versions.pop())
    body["id"] = predictions[0].id if request.id is None else request.id
    head = _encode({**body, "outputs": outputs})
    if not parts:
        return Response(head)
    return Response(head + b"".join(parts), _BINARY, {_JSON_LENGTH: str(len(head))})


def _output_tensors(predictions: Sequence[Prediction]) -> dict[str, OutputTensor]:
    tensors = [output_tensor("predictions", [prediction.value for prediction in predictions])]
    if all(prediction.probabilities is not None for prediction in predictions):
        rows = [prediction.probabilities or {} for prediction in predictions]
        labels = list(dict.fromkeys(label for row in rows for label in row))
        # Versions may know different labels: a version gives those that it does not know no probability.
        values = [row.get(label, 0.0) for row in rows for label in labels]
        shape = (len(rows), len(labels))
        tensors.append(OutputTensor("probabilities", "FP64", shape, values, {"labels": labels}))
    tensors += [
        output_tensor("ids", [prediction.id for prediction in predictions]),
        output_tensor("versions", [prediction.version for prediction in predictions]),
        output_tensor("missing", [",".join(prediction.missing) for prediction in predictions]),
    ]
    return {tensor.name: tensor for tensor in tensors}


def _describe_tensor(*optional: str) -> dict[str, Any]:
    return object_schema(
        optional=optional,
        name=TEXT,
        shape=list_schema({"type": "integer", "minimum": 0}),
        datatype={"enum": list(DATATYPES)},
        data={"type": "array"},
        parameters={"type": "object"},
    )


def _body_schema(_instance: dict[str, Any]) -> dict[str, Any]:
    request = object_schema(
        optional=["id", "outputs", "parameters"],
        inputs={**list_schema(_describe_tensor("data", "parameters")), "minItems": 1},
        id=TEXT,
        outputs={"type": "array"},
        parameters={"type": "object"},
    )
    return {**request, "additionalProperties": True}


_ANSWER = object_schema(
    optional=["model_version"],
    model_name=TEXT,
    model_version=TEXT,
    id=TEXT,
    outputs=list_schema(_describe_tensor("data", "parameters")),
)


def _read_server(_models: Models, _names: Mapping[str, str]) -> bytes:
    body = {
        "name": "headrace",
        "version": package_version("headrace"),
        "extensions": ["binary_tensor_data"],
    }
    return _encode(body)


def _read_live(_models: Models, _names: Mapping[str, str]) -> bytes:
    return _encode({"live": True})


def _read_ready(models: Models, _names: Mapping[str, str]) -> bytes:
    problems = models.failed.keys() | models.unfilled.keys()
    if problems and models.unfilled.keys() >= set(models.names):
        raise Unavailable("no model answers")
    return _encode({"ready": True})


def _read_model(models: Models, names: Mapping[str, str]) -> bytes:
    model, versions = models.find(names["model"]), _find_versions(models, names)
    inputs = [
        {"name": name, "datatype": _DATATYPES.get(dtype, "BYTES"), "shape": [-1]}
        for name, dtype in model.schema.fields.items()
    ]
    datatypes = ("FP64", "FP64", "BYTES", "INT64", "BYTES")
    outputs = [
        {"name": name, "datatype": datatype, "shape": [-1, -1] if name == "probabilities" else [-1]}
        for name, datatype in zip(_OUTPUTS, datatypes, strict=True)
    ]
    body = {"name": names["model"], "versions": [str(version) for version in versions], "platform": "headrace"}
    return _encode({**body, "inputs": inputs, "outputs": outputs})


def _read_model_ready(models: Models, names: Mapping[str, str]) -> bytes:
    _find_versions(models, names)
    models.check_ready(names["model"])
    return _encode({"name": names["model"], "ready": True})


def _find_versions(models: Models, names: Mapping[str, str]) -> list[int]:
    """The versions that answer for the model. Raises UnknownVersion if the path names another one."""
    versions = models.find(names["model"]).versions
    asked = names.get("version")
    if asked is not None and asked not in map(str, versions):
        raise unknown_version(names["model"], asked, versions)
    return versions


_CONTENT_TYPES = frozenset({JSON, _BINARY, b""})
_INFER = partial(
    PredictRoute, decode=decode, body_schema=_body_schema, answer_schema=_ANSWER, content_types=_CONTENT_TYPES
)
_MODEL = "/v2/models/{model}"
_VERSION = "/v2/models/{model}/versions/{version}"
ROUTES = (
    _INFER(f"{_MODEL}/infer", summary="Predict (Open Inference)"),
    _INFER(f"{_VERSION}/infer", summary="Predict by one version (Open Inference)"),
    ReadRoute("/v2", _read_server, "The server (Open Inference)"),
    ReadRoute("/v2/health/live", _read_live, "Whether the server is alive (Open Inference)"),
    ReadRoute("/v2/health/ready", _read_ready, "Whether the server is ready (Open Inference)"),
    ReadRoute(_MODEL, _read_model, "A model's inputs and outputs (Open Inference)"),
    ReadRoute(_VERSION, _read_model, "A version's inputs and outputs (Open Inference)"),
    ReadRoute(f"{_MODEL}/ready", _read_model_ready, "Whether a model is ready (Open Inference)"),
    ReadRoute(f"{_VERSION}/ready", _read_model_ready, "Whether a version is ready (Open Inference)"),
)
"""The routes of this protocol."""
