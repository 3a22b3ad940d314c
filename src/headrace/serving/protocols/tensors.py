"""Tensors of the Open Inference protocol: from JSON or bytes to values, and back.

A binary tensor is its elements in row-major order, little-endian. An element of BYTES is its length in four
bytes and its content. (https://github.com/kserve/open-inference-protocol, binary tensor data extension)
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable, Sequence
from functools import cache, partial
from itertools import accumulate
from operator import mul
from types import GenericAlias
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from headrace.serving.errors import WrongValue
from headrace.serving.protocols.counting import CountedList, has_more, has_more_values

__all__ = [
    "DATATYPES",
    "InputTensor",
    "OutputTensor",
    "Tensor",
    "decode_tensor",
    "encode_bytes",
    "output_tensor",
]

_NUMPY = {
    "BOOL": "?",
    "UINT8": "u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "INT8": "i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
}
"""The NumPy dtype of each datatype of fixed size."""
DATATYPES = (*_NUMPY, "BYTES")
_MOST_DIMENSIONS = 8
_LONGEST_SIZE = 12  # digits
_Dimension = Annotated[int, Meta(ge=0, le=2**31 - 1)]
_BEGINNING = re.compile(rb"(?:[ \t\n\r]*+\[)*+")
_PLACE = re.compile(r"(?P<what>.*?)(?: - at `\$(?P<place>[^`]*)`)?", re.DOTALL)


class _InputParameters(Struct):
    """The parameters of an input. Members that are not listed here are other clients' and are ignored."""

    binary_data_size: Raw | UnsetType = UNSET


class InputTensor(Struct):
    """A tensor of a request. Its data are in the JSON text, or in the bytes after it.

    Both are decoded once it is known what there should be: as the client sent them they may be much more.
    """

    name: str
    shape: Annotated[list[_Dimension], Meta(min_length=1, max_length=_MOST_DIMENSIONS)]
    datatype: str
    data: Raw | UnsetType = UNSET
    parameters: _InputParameters | None = None

    @property
    def binary_size(self) -> int | None:
        """How many of the bytes after the JSON text belong to this tensor; None if its data are JSON.

        Raises:
            WrongValue: the size is not valid, or there are data in both places or in none.
        """
        given = UNSET if self.parameters is None else self.parameters.binary_data_size
        size = b"null" if given is UNSET else bytes(given)
        if size == b"null":
            if self.data is UNSET:
                raise WrongValue("The tensor has neither data nor binary_data_size.", field=self.name)
            return None
        if not size.isdigit() or len(size) > _LONGEST_SIZE:
            raise WrongValue("binary_data_size must be a number of bytes.", field=self.name)
        if self.data is not UNSET:
            raise WrongValue("The tensor has both data and binary_data_size.", field=self.name)
        return int(size)


class Tensor(NamedTuple):
    """A decoded tensor.

    Attributes:
        name: its name.
        rows: the first dimension: the number of instances.
        width: the number of elements of an instance; None: the tensor has one dimension.
        values: the elements in row-major order: bool, int, finite float or str; None is missing.
    """

    name: str
    rows: int
    width: int | None
    values: list[Any]


class OutputTensor(NamedTuple):
    """A tensor of a response."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: Sequence[Any]
    parameters: dict[str, Any]


def decode_tensor(tensor: InputTensor, content: bytes | None, *, is_nullable: bool) -> Tensor:
    """Decodes a tensor.

    Args:
        tensor: the tensor.
        content: its bytes; None: its data are JSON.
        is_nullable: whether NaN and infinity are missing values; otherwise they are refused.

    Raises:
        WrongValue: the datatype or the shape is not valid, the data do not have the shape, or an element is
            not of the datatype; `instance` says of which instance.
    """
    if tensor.datatype not in DATATYPES:
        raise WrongValue(f"The datatype must be one of {', '.join(DATATYPES)}.", field=tensor.name)
    count, rest = tensor.shape[0], tensor.shape[1:]
    width = math.prod(rest) if rest else None
    size = count * (1 if width is None else width)
    if content is None:
        assert tensor.data is not UNSET  # binary_size has checked it
        values = _decode_json(tensor, bytes(tensor.data), size, width or 1)
    elif tensor.datatype == "BYTES":
        values = _decode_text(tensor, content, size, width or 1)
    else:
        item = np.dtype(_NUMPY[tensor.datatype]).itemsize
        if len(content) != size * item:
            raise WrongValue(
                f"The tensor has {len(content)} bytes, and its shape needs {size * item}.", field=tensor.name
            )
        array = np.frombuffer(content, _NUMPY[tensor.datatype])
        values = (array.view("u1") != 0 if tensor.datatype == "BOOL" else array).tolist()
    if tensor.datatype.startswith("FP"):
        _replace_non_finite(tensor.name, values, width or 1, is_nullable=is_nullable)
    return Tensor(tensor.name, count, width, values)


def _decode_json(tensor: InputTensor, data: bytes, size: int, width: int) -> list[Any]:
    depth = _find_depth(data)
    if depth > len(tensor.shape) or not _can_have(data, tensor, depth):
        raise WrongValue(
            f"The data do not have the {size:,} elements of the tensor's shape.", field=tensor.name
        )
    try:
        values: list[Any] = _make_decoder(tensor.datatype, depth)(data)
    except msgspec.ValidationError as error:
        match = _PLACE.fullmatch(str(error))
        assert match is not None  # the pattern matches any text
        place = re.search(r"\d+", match["place"] or "")  # such as "[3]" or "[3][0]"
        instance = None if place is None else int(place[0]) // (max(width, 1) if depth == 1 else 1)
        raise WrongValue(f"{match['what']}.", field=tensor.name, instance=instance) from error
    for length in tensor.shape[1:depth]:
        if any(len(row) != length for row in values):
            raise WrongValue("The nested data do not have the tensor's shape.", field=tensor.name)
        values = [element for row in values for element in row]
    if len(values) != size:
        raise WrongValue(
            f"The tensor has {len(values)} elements, and its shape needs {size}.", field=tensor.name
        )
    if tensor.datatype in ("FP16", "FP32"):
        return _round(tensor, values, width)
    return values


def _find_depth(data: bytes) -> int:
    """How deep the lists of the data are nested where they begin; 1: they are flat."""
    match = _BEGINNING.match(data)
    assert match is not None  # the pattern matches any data
    return max(match[0].count(b"["), 1)


def _can_have(data: bytes, tensor: InputTensor, depth: int) -> bool:
    """Whether the data, which are nested so deep, can have the elements of the shape.

    Numbers are counted by their commas. A text may have commas and brackets in it, so of texts only the lists
    are counted exactly: they need the most memory.
    """
    size, commas = math.prod(tensor.shape), data.count(b",")
    lengths = list(accumulate(tensor.shape[: depth - 1], mul))  # of the lists in the lists, all together
    has_more_lists = data.count(b"[") > 1 + sum(lengths)
    if tensor.datatype == "BYTES":
        outlines = [_make_outline(level) for level in range(1, depth)] if has_more_lists else []
        return commas + 1 >= size and not (
            (commas + 1 > size and has_more_values(data, size))
            or any(map(partial(has_more, data), outlines, lengths))
        )
    return not has_more_lists and (commas + 1 == size or size == 0)


@cache
def _make_outline(depth: int) -> Callable[[bytes], Any]:
    """Counts the lists in lists that are nested so deep."""
    return msgspec.json.Decoder(_nest(CountedList, depth)).decode


@cache
def _make_decoder(datatype: str, depth: int) -> Callable[[bytes], Any]:
    """Decodes data that are nested so deep."""
    kind: Any = {"BOOL": bool, "BYTES": str | None}.get(datatype)
    if kind is None and datatype.startswith("FP"):
        kind = float | None
    elif kind is None:
        limits = np.iinfo(_NUMPY[datatype])
        kind = Annotated[int, Meta(ge=int(limits.min), le=min(int(limits.max), 2**63 - 1))]
    return msgspec.json.Decoder(_nest(kind, depth)).decode


def _nest(kind: Any, depth: int) -> Any:
    """Lists of lists of this kind."""
    for _ in range(depth):
        kind = GenericAlias(list, (kind,))
    return kind


def _round(tensor: InputTensor, values: list[float | None], width: int) -> list[float | None]:
    """The values as the datatype holds them, so that JSON and bytes give the same values."""
    with np.errstate(over="ignore"):
        rounded: list[float] = np.array(values, np.float64).astype(_NUMPY[tensor.datatype]).tolist()
    for index, (value, result) in enumerate(zip(values, rounded, strict=True)):
        if value is not None and math.isinf(result):
            raise _wrong_element(tensor.name, f"The value is too large for {tensor.datatype}.", index, width)
    return [None if value is None else result for value, result in zip(values, rounded, strict=True)]


def _decode_text(tensor: InputTensor, content: bytes, size: int, width: int) -> list[str]:
    if len(content) < 4 * size:
        raise WrongValue(f"The bytes do not have the {size} elements of the shape.", field=tensor.name)
    values: list[str] = []
    place = 0
    while place < len(content) and len(values) <= size:
        if place + 4 > len(content):
            raise _wrong_element(tensor.name, "The length of an element is cut off.", len(values), width)
        (length,) = struct.unpack_from("<I", content, place)
        place += 4
        if place + length > len(content):
            raise _wrong_element(tensor.name, "The element is longer than the tensor.", len(values), width)
        try:
            values.append(content[place : place + length].decode())
        except UnicodeDecodeError as error:
            raise _wrong_element(tensor.name, "The element is not UTF-8.", len(values), width) from error
        place += length
    if place != len(content) or len(values) != size:
        raise WrongValue(f"The bytes do not have the {size} elements of the shape.", field=tensor.name)
    return values


def _replace_non_finite(name: str, values: list[Any], width: int, *, is_nullable: bool) -> None:
    for index, value in enumerate(values):
        if value is not None and not math.isfinite(value):
            if not is_nullable:
                raise _wrong_element(name, "The value must be finite.", index, width)
            values[index] = None


def _wrong_element(name: str, what: str, index: int, width: int) -> WrongValue:
    return WrongValue(what, field=name, instance=index // max(width, 1))


def output_tensor(name: str, values: Sequence[Any]) -> OutputTensor:
    """A tensor of one value for each instance. Values of no common datatype are JSON texts."""
    shape = (len(values),)
    for kind, datatype in ((bool, "BOOL"), (int, "INT64"), (float, "FP64"), (str, "BYTES")):
        if all(type(value) is kind for value in values):
            return OutputTensor(name, datatype, shape, values, {})
    if all(type(value) in (int, float) for value in values):
        return OutputTensor(name, "FP64", shape, [float(value) for value in values], {})
    if all(
        isinstance(value, list) and len(value) == len(values[0]) and all(type(item) is float for item in value)
        for value in values
    ):
        flat = [item for value in values for item in value]
        return OutputTensor(name, "FP64", (len(values), len(values[0])), flat, {})
    texts = [msgspec.json.encode(value).decode() for value in values]
    return OutputTensor(name, "BYTES", shape, texts, {"content_type": "json"})


def encode_bytes(tensor: OutputTensor) -> bytes:
    """The tensor's elements as bytes."""
    if tensor.datatype == "BYTES":
        texts = [value.encode() for value in tensor.values]
        return b"".join(struct.pack("<I", len(text)) + text for text in texts)
    return np.array(tensor.values, _NUMPY[tensor.datatype]).tobytes()
