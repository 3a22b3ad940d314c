"""Signature: the columns that a model states in its artefact, and the schema of an instance made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import GenericAlias
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from headrace.kernel.errors import Refused
from headrace.serving.errors import MissingField, UnknownField, WrongValue
from headrace.serving.mlflow_models.needs import read_yaml
from headrace.serving.request_schema import cell_type

__all__ = ["Column", "Signature", "SignatureSchema", "read_signature", "to_columns"]

_MLMODEL = "MLmodel"
_ABSENT = "null"  # what a signature or its inputs are in YAML, if there are none
_FIRST_TIME, _LAST_TIME = datetime(1678, 1, 1), datetime(2262, 1, 1)  # within 64 bits of nanoseconds
_FLOAT32_MAX = 3.4028234663852886e38
_TYPES: dict[str, Any] = {
    "double": float | None,
    "float": Annotated[float, Meta(ge=-_FLOAT32_MAX, le=_FLOAT32_MAX)] | None,
    "long": Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)],
    "integer": Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)],
    "boolean": bool,
    "string": str | None,
    "datetime": datetime | None,
    "binary": bytes | None,
}
"""MLflow's type → the JSON that a value is decoded from. A type that is not here takes any JSON."""
_NEVER_MISSING = ("long", "integer", "boolean")

_DTYPES = {"float64": "double", "float32": "float", "int64": "long", "int32": "integer", "bool": "boolean"}
"""NumPy's dtype of a matrix → MLflow's type of its columns."""
_WIDEST = 10_000  # columns of a matrix


class Column(Struct, frozen=True):
    """A column of a signature.

    Attributes:
        name: its name.
        type: MLflow's type, such as `double`; `any` for lists, objects and maps.
        required: whether each instance must have it.
    """

    name: str
    type: str
    required: bool = True


class Signature(Struct, frozen=True):
    """What a model takes.

    Attributes:
        columns: its columns; None: it states none, and takes a frame of any columns.
        matrix: NumPy's dtype, if the model takes a matrix and not a frame. Its columns are named `0`, `1`, ...
    """

    columns: list[Column] | None = None
    matrix: str = ""


class _Tensor(Struct):
    dtype: str
    shape: list[int]


def read_signature(artifact: Path) -> Signature:
    """Reads the signature of a model from its artefact.

    Raises:
        Refused: the file is missing or not valid, or the model takes neither named columns nor a matrix.
    """
    content = read_yaml(artifact, _MLMODEL)
    flavors = content.get("flavors")
    if not isinstance(flavors, dict) or "python_function" not in flavors:
        raise Refused("the model has no flavor python_function, by which MLflow loads it", where=_MLMODEL)
    signature = content.get("signature", _ABSENT)
    inputs = signature.get("inputs", _ABSENT) if isinstance(signature, dict) else signature
    try:
        fields = msgspec.json.decode(inputs or _ABSENT, type=list[dict[str, Any]] | None)
    except (msgspec.MsgspecError, TypeError, RecursionError) as error:
        raise Refused(f"it is not valid: {error}", where=f"{_MLMODEL}: signature") from error
    if fields is None:
        return Signature()
    if not fields:
        raise _refuse_inputs("no columns")
    if len(fields) == 1 and fields[0].get("type") == "tensor":
        return _read_matrix(fields[0])
    names = [field.get("name") for field in fields]
    if not all(isinstance(name, str) for name in names) or any(
        field.get("type") == "tensor" for field in fields
    ):
        raise _refuse_inputs("several tensors, or columns without names")
    if len(set(names)) != len(names):
        raise _refuse_inputs("two columns of one name")
    return Signature(
        [
            Column(
                field["name"],
                field["type"] if isinstance(field.get("type"), str) and field["type"] in _TYPES else "any",
                field.get("required", True) is not False,
            )
            for field in fields
        ]
    )


def _read_matrix(field: dict[str, Any]) -> Signature:
    try:
        tensor = msgspec.convert(field.get("tensor-spec"), _Tensor)
    except msgspec.ValidationError as error:
        raise _refuse_inputs(f"a tensor that is not valid ({error})") from error
    is_matrix = len(tensor.shape) == 2 and tensor.shape[0] == -1 and 0 < tensor.shape[1] <= _WIDEST
    if "name" in field or tensor.dtype not in _DTYPES or not is_matrix:
        raise _refuse_inputs(f"a tensor of {tensor.dtype} with shape {tensor.shape}")
    columns = [Column(str(place), _DTYPES[tensor.dtype]) for place in range(tensor.shape[1])]
    return Signature(columns, tensor.dtype)


def _refuse_inputs(inputs: str) -> Refused:
    return Refused(
        f"the model takes {inputs}",
        where=f"{_MLMODEL}: signature",
        remedy="Log it with the signature of a DataFrame, or of a matrix of numbers.",
    )


class SignatureSchema:
    """The fields of an instance: the columns of the signature. An instance may also be a list of their values.

    It has the parts of `serving.request_schema.RequestSchema` that protocols use.

    Args:
        signature: the columns. If it states none, an instance is an object with any fields.

    Attributes:
        fields: the required fields: name → MLflow's type.
        features: the other fields: name → MLflow's type.
        nullable: the fields that may be missing.
        instance_types: the one type that msgspec's decoders decode an instance to.
    """

    def __init__(self, signature: Signature) -> None:
        columns = signature.columns
        self.fields = {column.name: column.type for column in columns or () if column.required}
        self.features = {column.name: column.type for column in columns or () if not column.required}
        self.nullable = frozenset(column.name for column in columns or () if column.type not in _NEVER_MISSING)
        self.instance_types: Sequence[Any] = (dict[str, Any],)
        self._cells: list[tuple[str, Any]] | None = None
        if columns is None:
            return
        types = [(column, _TYPES.get(column.type, Any)) for column in columns]
        struct = msgspec.defstruct(
            "Row",
            [
                (f"f{index}", type_, msgspec.field(name=column.name))
                if column.required
                else (f"f{index}", type_ | UnsetType, msgspec.field(name=column.name, default=UNSET))
                for index, (column, type_) in enumerate(types)
            ],
            forbid_unknown_fields=True,
            kw_only=True,
            gc=False,
        )
        self.instance_types = (
            struct | GenericAlias(tuple, tuple(cell_type(column.type) for column in columns)),
        )
        self._cells = [(column.name, type_) for column, type_ in types]

    def find_dtype(self, name: str) -> str:
        """The type of a column; `any` if the signature states none. Raises UnknownField."""
        dtype = "any" if self._cells is None else self.fields.get(name) or self.features.get(name)
        if dtype is None:
            raise UnknownField(f"Object contains unknown field `{name}`.", field=name)
        return dtype

    def check_list(self, length: int) -> None:
        """Checks that an instance may be a list of so many values. Raises WrongValue."""
        if self._cells is None:
            raise WrongValue("The model states no columns: name each value.")
        if length != len(self._cells):
            raise WrongValue(f"The list has {length} values, and the model has {len(self._cells)} columns.")

    def to_values(self, instances: Sequence[Any]) -> list[dict[str, Any]]:
        """Field → JSON value of each decoded instance.

        Raises:
            MissingField: an instance has other fields than the others.
            WrongValue: an instance has no field, or is a list with a value of the wrong type.
        """
        rows = [
            self._to_values(instance, None if len(instances) == 1 else index)
            for index, instance in enumerate(instances)
        ]
        for index, row in enumerate(rows):
            if row.keys() != rows[0].keys():
                field = next(iter(row.keys() ^ rows[0].keys()))
                raise MissingField(
                    f"Field `{field}` is in some of the instances only.", field=field, instance=index
                )
        return rows

    def _to_values(self, instance: Any, index: int | None) -> dict[str, Any]:
        if isinstance(instance, dict):
            if not instance:
                raise WrongValue("The instance has no field.", instance=index)
            return instance
        cells = self._cells or ()
        if isinstance(instance, tuple):
            return _read_list(cells, instance, index)
        values = zip((name for name, _ in cells), msgspec.structs.astuple(instance), strict=True)
        row = {name: _to_json(value, name, index) for name, value in values if value is not UNSET}
        if not row:
            raise WrongValue("The instance has no field.", instance=index)
        return row


def to_columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """The rows, which have equal fields, as columns."""
    return {name: [row[name] for row in rows] for name in rows[0]}


def _read_list(
    cells: Sequence[tuple[str, Any]], instance: tuple[Any, ...], index: int | None
) -> dict[str, Any]:
    values = {}
    for value, (name, type_) in zip(instance, cells, strict=True):
        try:
            values[name] = _to_json(msgspec.convert(value, type_), name, index)
        except msgspec.ValidationError as error:
            raise WrongValue(f"{error}.", field=name, instance=index) from error
    return values


def _to_json(value: Any, field: str, index: int | None) -> Any:
    """The value as the model's process gets it: times are UTC without a zone, as MLflow has them.

    Raises:
        WrongValue: a frame of pandas cannot hold the time.
    """
    if isinstance(value, datetime):
        try:
            utc = value if value.tzinfo is None else value.astimezone(UTC).replace(tzinfo=None)
        except OverflowError:
            utc = datetime.min
        if not _FIRST_TIME <= utc <= _LAST_TIME:
            raise WrongValue("The time is not between the years 1678 and 2261.", field=field, instance=index)
        return utc.isoformat()
    return value
