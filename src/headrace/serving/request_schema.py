"""Request schema: the fields of an instance of a request, from the plans of the versions that predict it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec
from msgspec import UNSET, Struct, UnsetType

from headrace.features.plan import Dtype, FeaturePlan
from headrace.features.values.conversion import input_cleaner, json_type
from headrace.serving.errors import WrongValue

__all__ = ["InstanceSchema", "RequestSchema"]


class InstanceSchema(Protocol):
    """The fields of an instance, as protocols use them.

    Attributes:
        fields: the fields that an instance must have: name → dtype.
        instance_type: the type that msgspec's decoders decode an instance to.
    """

    @property
    def fields(self) -> Mapping[str, str]: ...
    @property
    def instance_type(self) -> Any: ...

    def to_values(self, instances: Sequence[Any]) -> list[dict[str, Any]]:
        """Field → value of each decoded instance. Raises RequestError."""
        ...


class RequestSchema:
    """The fields of one instance: every entity key and every request field of the plans, each with its type.

    No other field is allowed, so that a misspelt field is refused, not ignored. A protocol decodes to
    `instance_type`; `to_values` then converts the instances for the predictor.

    Args:
        plans: the plans of the versions that answer.
        shadows: the plans of the shadow versions. A field that only they need may be missing.

    Attributes:
        fields: the fields that an instance must have: name → dtype.
        instance_type: a struct with these fields, for msgspec's decoders.
    """

    def __init__(self, plans: Sequence[FeaturePlan], shadows: Sequence[FeaturePlan] = ()) -> None:
        required = {name: dtype for plan in plans for name, dtype in _fields(plan)}
        optional = {name: dtype for plan in shadows for name, dtype in _fields(plan) if name not in required}
        self.fields: dict[str, Dtype] = required
        self._names = (*required, *optional)
        self._cleaners = [
            (name, cleaner)
            for name, dtype in (*required.items(), *optional.items())
            if "timestamp" in dtype and (cleaner := input_cleaner(dtype)) is not None
        ]
        # The struct's attributes are numbered, because the name of a field need not be an identifier.
        members: list[tuple[str, Any, Any]] = [
            (f"f{index}", json_type(dtype), msgspec.field(name=name))
            for index, (name, dtype) in enumerate(required.items())
        ]
        members += [
            (f"f{index}", json_type(dtype) | UnsetType, msgspec.field(name=name, default=UNSET))
            for index, (name, dtype) in enumerate(optional.items(), len(required))
        ]
        self.instance_type = msgspec.defstruct("Instance", members, forbid_unknown_fields=True, gc=False)

    def to_values(self, instances: Sequence[Struct]) -> list[dict[str, Any]]:
        """Field → value of each decoded instance. Timestamps become UTC, as in training.

        Raises:
            WrongValue: a timestamp is out of range.
        """
        return [
            self._to_values(instance, None if len(instances) == 1 else index)
            for index, instance in enumerate(instances)
        ]

    def _to_values(self, instance: Struct, index: int | None) -> dict[str, Any]:
        pairs = zip(self._names, msgspec.structs.astuple(instance), strict=True)
        values = {name: value for name, value in pairs if value is not UNSET}
        for name, clean in self._cleaners:
            if name in values:
                try:
                    values[name] = clean(values[name])
                except OverflowError as error:
                    raise WrongValue("The timestamp is out of range.", field=name, instance=index) from error
        return values


def _fields(plan: FeaturePlan) -> list[tuple[str, Dtype]]:
    return [
        *((key.join_key, key.dtype) for key in plan.entities),
        *((field.name, field.dtype) for field in plan.request),
    ]
