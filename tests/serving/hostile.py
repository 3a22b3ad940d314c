"""Hostile requests of each protocol from a seed, and what an answer of 200 must be.

`expected_rows` reads a request by the definition of its protocol, with Python's own json and struct: the
features (mean price, views) of each instance, or None if the request must not be answered 200.
"""

from __future__ import annotations

import json
import math
import random
import struct
from collections.abc import Callable
from copy import deepcopy
from typing import Any, NamedTuple

__all__ = ["PROTOCOLS", "Request", "make_request"]

FEATURES = {7: (9.5, 190), 8: (20.0, 10)}  # product → mean price, views
COLUMNS = ("facts__mean_price", "facts__views")
KEYS = ("user_id", "product_id", "price")
FIELDS = {*KEYS, *COLUMNS}
SIZES = {"BOOL": 1, "INT8": 1, "INT16": 2, "INT32": 4, "INT64": 8, "FP16": 2, "FP32": 4, "FP64": 8}
SIZES |= {"UINT8": 1, "UINT16": 2, "UINT32": 4, "UINT64": 8}
CODES = {
    "BOOL": "?",
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "FP16": "e",
    "FP32": "f",
    "FP64": "d",
}
CODES |= {"UINT8": "B", "UINT16": "H", "UINT32": "I", "UINT64": "Q"}
TOKENS = (
    "NaN",
    "Infinity",
    "-Infinity",
    "1e999",
    "-1e400",
    "-0",
    "1" * 5_000,
    "[" * 3_000,
    "[" * 50 + "]" * 50,
)
TOKENS += ('"\\ud800"', "{" * 100, "tru", "1.", "01", "0x1", "'a'", '{"a":1,"a":2}')
TOKENS += ("[" * 20_000 + "]" * 20_000, '{"a":' * 20_000 + "1" + "}" * 20_000, '"\ud800"', "-" + "9" * 400)
VALUES: tuple[Any, ...] = (
    None,
    True,
    "x",
    "",
    "7",
    "NaN",
    0,
    -1,
    0.5,
    7.0,
    1e308,
    2**63,
    2**64,
    10**30,
    -(2**63),
)
VALUES += ([], {}, [7], [[1]], {"a": 1}, 8, 404, 1e-320, "\x00", "é" * 50)
Row = tuple[float | None, float | None]


class Request(NamedTuple):
    """A request.

    Attributes:
        path: its path.
        headers: its headers beyond Host and Content-Length.
        body: its body.
        is_valid: whether it must be answered 200.
    """

    path: str
    headers: dict[str, str]
    body: bytes
    is_valid: bool


class HostileProtocol(NamedTuple):
    """One protocol.

    Attributes:
        make: makes path, headers and body of a request with so many instances; the body is JSON unless it is
            bytes.
        expected_rows: see the module.
        values: the values in the decoded body of an answer.
        ids: the ids of its predictions; empty if it has none.
    """

    make: Callable[[random.Random, int], tuple[str, dict[str, str], Any]]
    expected_rows: Callable[[Request], list[Row] | None]
    values: Callable[[Any], list[Any]]
    ids: Callable[[Any], list[str]]


def make_request(protocol: HostileProtocol, rng: random.Random, count: int | None = None) -> Request:
    """A valid request, or one that was changed at one or two places.

    Args:
        count: how many instances it has, in a body that is not changed; None: one to three.
    """
    path, headers, body = protocol.make(rng, rng.randrange(1, 4) if count is None else count)
    kind = 0.0 if count is not None else rng.random()
    if kind < 0.1:
        request = Request(path, headers, _encode(body), False)
        return request._replace(is_valid=protocol.expected_rows(request) is not None)
    if not isinstance(body, bytes) and kind < 0.7:
        content = _change_json(rng, body)
    else:
        content = _change_bytes(rng, _encode(body))
    if kind > 0.97:
        headers = {
            **headers,
            rng.choice(("Content-Type", "Inference-Header-Content-Length", "Content-Encoding")): (
                rng.choice(
                    ("text/plain", "-1", "9" * 30, "0", "1e3", "gzip", "application/json; charset=utf-16")
                )
            ),
        }
    return Request(path, headers, content, False)


def _encode(body: Any) -> bytes:
    return body if isinstance(body, bytes) else json.dumps(body).encode()


def _change_bytes(rng: random.Random, body: bytes) -> bytes:
    first, last = sorted(rng.randrange(len(body) + 1) for _ in range(2))
    last = min(last, first + 40)
    change = rng.randrange(5)
    if change == 0:
        return body[:first]
    if change == 1:
        return body[:first] + bytes([rng.randrange(256)]) + body[first + 1 :]
    if change == 2:
        return body[:first] + body[last:]
    if change == 3:
        return body[:last] + body[first:]
    return body[:first] + rng.randbytes(rng.randrange(1, 9)) + body[first:]


def _change_json(rng: random.Random, body: Any) -> bytes:
    body = json.loads(json.dumps(body))
    tokens: dict[str, str] = {}
    if isinstance(body, dict) and body and rng.random() < 0.05:
        return _repeat_key(rng, body)
    for _ in range(rng.choice((1, 1, 2))):
        places = list(_places(body))
        parent, key = rng.choice(places)
        change = rng.randrange(6)
        if change == 0:
            del parent[key]
        elif change == 1 and isinstance(parent, dict):
            parent[rng.choice(("extra", "prise", "", "facts__views", "a" * 300, "user_id"))] = rng.choice(
                VALUES
            )
        elif change == 2 and isinstance(parent, list):
            parent.extend([parent[key]] * rng.choice((1, 2, 3)))
        elif change == 3 and isinstance(parent[key], dict) and parent[key] and rng.random() < 0.5:
            mark = f"@{len(tokens)}@"
            tokens[f'"{mark}"'] = _repeat_key(rng, parent[key]).decode()
            parent[key] = mark
        elif change == 3:
            mark = f"@{len(tokens)}@"
            tokens[f'"{mark}"'] = rng.choice(TOKENS)
            parent[key] = mark
        else:
            parent[key] = deepcopy(rng.choice(VALUES))
        if not list(_places(body)):
            break
    text = json.dumps(body, ensure_ascii=rng.random() < 0.5)
    for mark, token in tokens.items():
        text = text.replace(mark, token)
    return text.encode(errors="surrogatepass")


def _repeat_key(rng: random.Random, members: dict[str, Any]) -> bytes:
    """An object that has one of its keys twice. The last one counts."""
    repeated = json.dumps({rng.choice(list(members)): rng.choice((*VALUES, *members.values()))})
    first, second = (json.dumps(members), repeated) if rng.random() < 0.5 else (repeated, json.dumps(members))
    return f"{first[:-1]}, {second[1:]}".encode()


def _places(value: Any):
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield value, key
        yield from _places(item)


def _instance(rng: random.Random) -> dict[str, Any]:
    keys = {"user_id": rng.randrange(5), "product_id": rng.choice((7, 8, 404)), "price": rng.choice((1, 2.5))}
    given = {COLUMNS[0]: rng.choice((9.5, 20, None)), COLUMNS[1]: rng.choice((190, 10.0, None))}
    return rng.choice((keys, keys, given, {**keys, COLUMNS[1]: given[COLUMNS[1]]}))


def _number(value: Any, *, whole: bool = False) -> float | int | None:
    """The number, or None if it is not one that a field may have."""
    if type(value) not in (int, float) or (whole and type(value) is not int):
        return None
    if whole:
        return value if -(2**63) <= value < 2**63 else None
    try:
        return float(value) if math.isfinite(float(value)) else None
    except OverflowError:
        return None


def row_of(instance: Any) -> Row | None:
    """The features of one instance; None if it is not valid."""
    if isinstance(instance, list):
        instance = dict(zip(COLUMNS, instance, strict=True)) if len(instance) == 2 else None
    if not isinstance(instance, dict) or not instance.keys() <= FIELDS:
        return None
    for name in instance.keys() & set(KEYS):
        if _number(instance[name], whole=name != "price") is None:
            return None
    given = instance.keys() & set(COLUMNS)
    if (not given and not set(KEYS) <= instance.keys()) or (len(given) == 1 and "product_id" not in instance):
        return None
    row = dict(zip(COLUMNS, FEATURES.get(instance.get("product_id"), (None, None)), strict=True))
    for name in given:
        row[name] = instance[name]
        if row[name] is None:
            continue
        row[name] = number = _number(row[name])
        if number is None:
            return None
        if name == COLUMNS[1] and (not number.is_integer() or not -(2**63) <= instance[name] < 2**63):
            return None
    return row[COLUMNS[0]], row[COLUMNS[1]]


def _rows(instances: Any) -> list[Row] | None:
    if not isinstance(instances, list) or not 1 <= len(instances) <= 10_000:
        return None
    rows = [row_of(instance) for instance in instances]
    return None if None in rows else rows


def _refuse(name: str) -> Any:
    raise ValueError(name)


def _whole_number(digits: str) -> float:
    """The number; Python itself would refuse more than 4,300 digits, also in a member that is skipped."""
    return int(digits) if len(digits) < 1_000 else math.inf


def _load(body: bytes, parse_constant: Callable[[str], Any] = _refuse) -> Any:
    try:
        return json.loads(body, parse_constant=parse_constant, parse_int=_whole_number)
    except (ValueError, RecursionError):
        return None


def _rows_of_member(member: str) -> Callable[[Request], list[Row] | None]:
    def rows(request: Request) -> list[Row] | None:
        body = _load(request.body)
        return _rows(body[member]) if isinstance(body, dict) and body.keys() == {member} else None

    return rows


def _native_rows(request: Request) -> list[Row] | None:
    body = _load(request.body)
    if isinstance(body, dict) and "instances" in body:
        return _rows(body["instances"]) if len(body) == 1 else None
    return _rows([body])


def _mlflow_rows(request: Request) -> list[Row] | None:
    body = _load(request.body, lambda name: None if name == "NaN" else _refuse(name))
    if not isinstance(body, dict) or body.pop("params", None) not in (None, {}) or len(body) != 1:
        return None
    ((form, value),) = body.items()
    if form in ("dataframe_records", "instances", "inputs") and isinstance(value, list):
        return _rows(value)
    if form == "dataframe_split" and isinstance(value, dict):
        names, rows = value.get("columns"), value.get("data")
        if not value.keys() <= {"columns", "data", "index"} or not isinstance(rows, list):
            return None
    elif form == "inputs" and isinstance(value, dict):
        names, columns = list(value), list(value.values())
        if (
            not all(isinstance(column, list) for column in columns)
            or len({len(column) for column in columns}) != 1
        ):
            return None
        rows = [list(row) for row in zip(*columns, strict=True)]
    else:
        return None
    if (
        not isinstance(names, list)
        or not all(type(name) is str for name in names)
        or len({*names}) != len(names)
    ):
        return None
    if not all(isinstance(row, list) and len(row) == len(names) for row in rows):
        return None
    return _rows([dict(zip(names, row, strict=True)) for row in rows])


def _open_inference_rows(request: Request) -> list[Row] | None:
    length = request.headers.get("Inference-Header-Content-Length", str(len(request.body)))
    if not length.isascii() or not length.isdigit() or int(length) > len(request.body):
        return None
    # Members that the protocol does not know are skipped, even if their text is not UTF-8.
    body = _load(request.body[: int(length)].decode(errors="replace").encode())
    content = request.body[int(length) :]
    if not isinstance(body, dict) or not isinstance(body.get("inputs"), list) or not body["inputs"]:
        return None
    columns: dict[str, list[Any]] = {}
    for tensor in body["inputs"]:
        column, content = _column(tensor, content, len(body["inputs"]) == 1)
        if column is None or tensor["name"] in columns:
            return None
        columns[tensor["name"]] = column
    if content or len({len(column) for column in columns.values()}) != 1:
        return None
    first = next(iter(columns.values()))
    if len(columns) == 1 and first and isinstance(first[0], list):
        return _rows(first)
    return _rows([dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)])


def _column(tensor: Any, content: bytes, alone: bool) -> tuple[list[Any] | None, bytes]:
    """The values of a tensor for each instance, and the bytes after it."""
    if not isinstance(tensor, dict) or type(tensor.get("name")) is not str:
        return None, content
    shape, datatype, data = tensor.get("shape"), tensor.get("datatype"), tensor.get("data")
    if (
        not isinstance(shape, list)
        or not 1 <= len(shape) <= 8
        or not all(type(size) is int and size >= 0 for size in shape)
    ):
        return None, content
    if datatype not in SIZES:
        return None, content  # no field here is text
    parameters = tensor.get("parameters") or {}
    size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
    count = math.prod(shape)
    if (size is None) == (data is None):
        return None, content
    if size is not None:
        if type(size) is not int or size != count * SIZES[datatype] or size > len(content):
            return None, content
        values = list(struct.unpack(f"<{count}{CODES[datatype]}", content[:size]))
        content = content[size:]
    else:
        values = _flat(data, shape[1:])
        if values is None or len(values) != count:
            return None, content
        values = [_as_datatype(value, datatype) for value in values]
        if any(value is _WRONG for value in values):
            return None, content
    is_matrix = alone and tensor["name"] not in FIELDS and len(shape) == 2
    if is_matrix or tensor["name"] in COLUMNS:
        values = [None if type(value) is float and not math.isfinite(value) else value for value in values]
    if not is_matrix and math.prod(shape[1:]) == 1:
        return values, content
    width = math.prod(shape[1:])
    return [values[index * width : (index + 1) * width] for index in range(shape[0])], content


_WRONG = object()


def _flat(data: Any, rest: list[int]) -> list[Any] | None:
    if not isinstance(data, list):
        return None
    for size in rest:
        if not data or not isinstance(data[0], list):
            return data
        if not all(isinstance(row, list) and len(row) == size for row in data):
            return None
        data = [item for row in data for item in row]
    return data


def _as_datatype(value: Any, datatype: str) -> Any:
    if datatype == "BOOL":
        return value if type(value) is bool else _WRONG
    if datatype.startswith("FP"):
        if value is None:
            return None
        try:
            return struct.unpack(f"<{CODES[datatype]}", struct.pack(f"<{CODES[datatype]}", _number(value)))[0]
        except (struct.error, OverflowError, TypeError):
            return _WRONG
    try:
        struct.pack(f"<{CODES[datatype]}", value)
    except struct.error:
        return _WRONG
    return value if type(value) is int else _WRONG


def _make_native(rng: random.Random, count: int) -> tuple[str, dict[str, str], Any]:
    several = {"instances": [_instance(rng) for _ in range(count)]}
    return "/predict/purchase", _JSON, rng.choice((_instance(rng), several)) if count == 1 else several


def _make_kserve(rng: random.Random, count: int) -> tuple[str, dict[str, str], Any]:
    instances = [rng.choice((_instance(rng), [9.5, 190])) for _ in range(count)]
    return "/v1/models/purchase:predict", _JSON, {"instances": instances}


def _make_list(rng: random.Random, count: int) -> tuple[str, dict[str, str], Any]:
    return "/purchase", _JSON, {"data": [_instance(rng) for _ in range(count)]}


def _make_mlflow(rng: random.Random, count: int) -> tuple[str, dict[str, str], Any]:
    keys = [{"user_id": 1, "product_id": rng.choice((7, 8)), "price": 2.5} for _ in range(count)]
    split = {"columns": list(KEYS), "data": [list(row.values()) for row in keys]}
    columns = {name: [row[name] for row in keys] for name in KEYS}
    forms = ({"dataframe_split": split}, {"inputs": columns}, {"dataframe_records": keys}, {"instances": keys})
    return rng.choice(("/invocations", "/purchase/invocations")), _JSON, rng.choice(forms)


def _make_open_inference(rng: random.Random, count: int) -> tuple[str, dict[str, str], Any]:
    path = rng.choice(("/v2/models/purchase/infer", "/v2/models/purchase/versions/1/infer"))
    columns: dict[str, tuple[str, list[Any]]] = {
        "user_id": (rng.choice(("INT64", "INT8", "UINT16")), [rng.randrange(5) for _ in range(count)]),
        "product_id": (rng.choice(("INT64", "INT32")), [rng.choice((7, 8, 404)) for _ in range(count)]),
        "price": (rng.choice(("FP64", "FP32", "FP16")), [rng.choice((1.0, 2.5)) for _ in range(count)]),
        COLUMNS[1]: (rng.choice(("FP32", "INT64")), [rng.choice((10, 190)) for _ in range(count)]),
    }
    if rng.random() < 0.3:
        del columns[COLUMNS[1]]
    shape = [count] if rng.random() < 0.7 else [count, 1]
    if rng.random() < 0.2:
        columns, shape = {"input-0": ("FP32", [9.5, 190.0] * count)}, [count, 2]
    inputs: list[dict[str, Any]] = [
        {"name": name, "shape": shape, "datatype": datatype, "data": values}
        for name, (datatype, values) in columns.items()
    ]
    if rng.random() < 0.5:
        return path, _JSON, {"inputs": inputs}
    content = b""
    for tensor in inputs:
        part = struct.pack(f"<{len(tensor['data'])}{CODES[tensor['datatype']]}", *tensor.pop("data"))
        tensor["parameters"] = {"binary_data_size": len(part)}
        content += part
    if count in (1, 2, 3) and rng.random() < 0.6:
        _spoil(rng, rng.choice(inputs))
    head = json.dumps({"inputs": inputs}).encode()
    return path, {"Inference-Header-Content-Length": str(len(head))}, head + content


def _spoil(rng: random.Random, tensor: dict[str, Any]) -> None:
    """Makes the size or the shape of a binary tensor wrong."""
    if rng.random() < 0.5:
        tensor["parameters"]["binary_data_size"] += rng.choice((-1, 1, 8, -8, 2**31, 2**63, 2**64, -(2**63)))
    else:
        wrong = (-1, 0, 2**31, 2**32, 2**62, 2**63, 2**64, 10_001)
        tensor["shape"] = rng.choice(([rng.choice(wrong)], [1, rng.choice(wrong)], [2**32, 2**32], [], [1] * 9))


_JSON = {"Content-Type": "application/json"}


def _tensor(body: Any, name: str) -> list[Any]:
    return next(output["data"] for output in body["outputs"] if output["name"] == name)


def _members(body: Any, member: str) -> list[Any]:
    return [prediction[member] for prediction in body.get("predictions", [body])]


PROTOCOLS = {
    "native": HostileProtocol(
        _make_native, _native_rows, lambda body: _members(body, "value"), lambda body: _members(body, "id")
    ),
    "kserve_v1": HostileProtocol(
        _make_kserve, _rows_of_member("instances"), lambda body: body["predictions"], lambda body: body["ids"]
    ),
    "open_inference": HostileProtocol(
        _make_open_inference,
        _open_inference_rows,
        lambda body: _tensor(body, "predictions"),
        lambda body: _tensor(body, "ids"),
    ),
    "mlflow_scoring": HostileProtocol(
        _make_mlflow, _mlflow_rows, lambda body: body["predictions"], lambda body: body["ids"]
    ),
    "data_list": HostileProtocol(_make_list, _rows_of_member("data"), lambda body: body, lambda _: []),
}
