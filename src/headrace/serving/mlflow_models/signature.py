"""Signature: the columns that a model states in its artefact, as the schema of an instance of a request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from headrace.kernel.errors import Refused
from headrace.serving.errors import MissingField, WrongValue
from headrace.serving.mlflow_models.needs import read_yaml

__all__ = ["Column", "SignatureSchema", "read_signature", "to_columns"]

_MLMODEL = "MLmodel"
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


def read_signature(artifact: Path) -> list[Column] | None:
    """Reads the columns of a model from its artefact; None if it states no signature.

    Raises:
        Refused: the file is missing or not valid, or the model takes tensors.
    """
    content = read_yaml(artifact, _MLMODEL)
    if "python_function" not in (content.get("flavors") or {}):
        raise Refused("the model has no flavor python_function, by which MLflow loads it", where=_MLMODEL)
    inputs = (content.get("signature") or {}).get("inputs")
    if inputs is None:
        return None
    try:
        fields = msgspec.json.decode(inputs, type=list[dict[str, Any]])
    except (msgspec.MsgspecError, TypeError) as error:
        raise Refused(f"it is not valid: {error}", where=f"{_MLMODEL}: signature") from error
    if any("name" not in field or field.get("type") == "tensor" for field in fields):
        raise Refused(
            "the model takes tensors, or columns without names",
            where=f"{_MLMODEL}: signature",
            remedy="Log it with a signature of named columns: infer_signature of a DataFrame.",
        )
    return [
        Column(
            str(field["name"]),
            str(field["type"]) if field["type"] in _TYPES else "any",
            bool(field.get("required", True)),
        )
        for field in fields
    ]


class SignatureSchema:
    """The fields of an instance: the columns of the signature. An instance may also be a list of their values.

    It has the parts of `serving.request_schema.RequestSchema` that protocols use.

    Args:
        columns: the columns; None: any fields are taken.

    Attributes:
        fields: the required fields: name → MLflow's type.
        instance_type: what msgspec's decoders decode an instance to.
    """

    def __init__(self, columns: Sequence[Column] | None) -> None:
        self._columns = columns
        self.fields = {column.name: column.type for column in columns or () if column.required}
        self.instance_type: Any = dict[str, Any]
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
        self.instance_type = struct | list[Any]
        self._cells = [(column.name, type_) for column, type_ in types]

    def to_values(self, instances: Sequence[Any]) -> list[dict[str, Any]]:
        """Field → JSON value of each decoded instance.

        Raises:
            MissingField: an instance has other fields than the others.
            WrongValue: an instance is a list of the wrong length, or with a value of the wrong type.
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
            return instance
        if isinstance(instance, list):
            return self._read_list(instance, index)
        values = zip((name for name, _ in self._cells), msgspec.structs.astuple(instance), strict=True)
        return {name: _to_json(value) for name, value in values if value is not UNSET}

    def _read_list(self, instance: list[Any], index: int | None) -> dict[str, Any]:
        if len(instance) != len(self._cells):
            raise WrongValue(
                f"The list has {len(instance)} values, and the model has {len(self._cells)} columns.",
                instance=index,
            )
        values = {}
        for value, (name, type_) in zip(instance, self._cells, strict=True):
            try:
                values[name] = _to_json(msgspec.convert(value, type_))
            except msgspec.ValidationError as error:
                raise WrongValue(f"{error}.", field=name, instance=index) from error
        return values


def to_columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """The rows, which have equal fields, as columns."""
    return {name: [row[name] for row in rows] for name in rows[0]}


def _to_json(value: Any) -> Any:
    """The value as the model's process gets it: times are UTC without a zone, as MLflow has them."""
    if isinstance(value, datetime):
        utc = value if value.tzinfo is None else value.astimezone(UTC).replace(tzinfo=None)
        return utc.isoformat()
    return value
