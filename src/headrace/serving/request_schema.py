"""Request schema: the fields of an instance of a request, from the plans of the versions that predict it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from functools import lru_cache
from types import GenericAlias
from typing import Any, Protocol

import msgspec
from msgspec import UNSET, Struct, UnsetType

from headrace.features.plan import Dtype, FeaturePlan, find_needed
from headrace.features.values.conversion import input_cleaner, json_type
from headrace.serving.errors import MissingField, UnknownField, WrongValue

__all__ = ["InstanceSchema", "RequestSchema", "cell_type", "takes_lists"]

_GIVEN_SETS = 256  # sets of given features whose needs are kept
_ANY = "any"
_Plain = int | float | str | bool | None


class _SkippedList(Struct, array_like=True, gc=False):
    """A list that cannot be an instance; its values are not decoded."""


def takes_lists(dtype: str) -> bool:
    """Whether a value of the dtype may be a list."""
    return dtype == _ANY or dtype.startswith("list[")


def cell_type(dtype: str) -> Any:
    """The type to decode a value of the dtype to, before it is converted.

    No list is built where no value can be one. Lists in lists take a hundred times the memory of their text.
    """
    if dtype == _ANY:
        return Any
    return _Plain | list[_Plain] if takes_lists(dtype) else _Plain


class InstanceSchema(Protocol):
    """The fields of an instance, as protocols use them.

    Attributes:
        fields: the fields that an instance has: name → dtype.
        features: the features that an instance may have besides: name → dtype.
        nullable: the fields and features that may be missing: null, NaN or infinite.
        instance_types: the types that msgspec's decoders decode an instance to. A decoder tries one after the
            other, and the error of the last one counts.
    """

    @property
    def fields(self) -> Mapping[str, str]: ...
    @property
    def features(self) -> Mapping[str, str]: ...
    @property
    def nullable(self) -> Set[str]: ...
    @property
    def instance_types(self) -> Sequence[Any]: ...

    def find_dtype(self, name: str) -> str:
        """The dtype of a field or feature; `any` for any JSON. Raises UnknownField."""
        ...

    def check_list(self, length: int) -> None:
        """Checks that an instance may be a list of so many values. Raises WrongValue."""
        ...

    def to_values(self, instances: Sequence[Any]) -> list[dict[str, Any]]:
        """Field → value of each decoded instance. Raises RequestError."""
        ...


class RequestSchema:
    """The fields of one instance: every entity key and every request field of the plans, each with its type.

    An instance may also give features itself, as `view__feature`. They are not looked up or computed then, and
    the fields that only they need may be missing. A list of values is the model's features, in its order.

    No other field is allowed, so that a misspelt field is refused, not ignored. A protocol decodes to one of
    `instance_types`; `to_values` then converts the instances for the predictor.

    Args:
        plans: the plans of the versions that answer.
        shadows: the plans of the shadow versions. A field that only they need may be missing.
        gives_features: whether an instance may give features.

    Attributes:
        fields, features, nullable, instance_types: see InstanceSchema.
    """

    def __init__(
        self,
        plans: Sequence[FeaturePlan],
        shadows: Sequence[FeaturePlan] = (),
        *,
        gives_features: bool = True,
    ) -> None:
        required = {name: dtype for plan in plans for name, dtype in _fields(plan)}
        optional = {name: dtype for plan in shadows for name, dtype in _fields(plan) if name not in required}
        self.fields: dict[str, Dtype] = required
        self.features = _features(plans, {*required, *optional}) if gives_features else {}
        self.nullable = self.features.keys()
        self._plans = plans
        order, *others = {tuple(feature.column for feature in plan.features) for plan in plans}
        # Of the values of a list; empty: the plans differ in the features or in their types, or have none.
        self._order = order if not others and self.features.keys() >= {*order} else ()
        self._dtypes: Mapping[str, str] = {**optional, **required, **self.features}
        self._names = (*required, *optional)
        self._cleaners = [
            (name, cleaner)
            for name, dtype in (*required.items(), *optional.items())
            if "timestamp" in dtype and (cleaner := input_cleaner(dtype)) is not None
        ]
        # The struct's attributes are numbered, because the name of a field need not be an identifier.
        members = [
            (f"f{index}", json_type(dtype), msgspec.field(name=name))
            for index, (name, dtype) in enumerate(required.items())
        ]
        members += _optional_members(optional, {}, len(required))
        self._keyed_type = msgspec.defstruct("Instance", members, forbid_unknown_fields=True, gc=False)
        row_type = msgspec.defstruct(
            "Instance",
            _optional_members({**required, **optional}, self.features, 0),
            forbid_unknown_fields=True,
            gc=False,
        )
        more_types: tuple[Any, ...] = ()
        if self._order:
            cells = tuple(cell_type(self.features[name]) for name in self._order)
            more_types = (row_type | GenericAlias(tuple, cells),)
        elif gives_features:
            more_types = (_SkippedList, row_type)
        self.instance_types: tuple[Any, ...] = (self._keyed_type, *more_types)
        self._find_fields = lru_cache(_GIVEN_SETS)(self._list_needed_fields)

    def find_dtype(self, name: str) -> str:
        """The dtype of a field or feature. Raises UnknownField."""
        if name not in self._dtypes:
            raise UnknownField(f"Object contains unknown field `{name}`.", field=name)
        return self._dtypes[name]

    def check_list(self, length: int) -> None:
        """Checks that an instance may be a list of so many values. Raises WrongValue."""
        if not self._order:
            raise WrongValue("The released versions have different features: name each value.")
        if length != len(self._order):
            raise WrongValue(f"The list has {length} values, and the model has {len(self._order)} features.")

    def to_values(self, instances: Sequence[Any]) -> list[dict[str, Any]]:
        """Field → value of each decoded instance. Timestamps become UTC, as in training.

        Raises:
            MissingField: an instance lacks a field that its missing features need.
            WrongValue: a timestamp is out of range, or a list's values are not those of the model's features.
        """
        return [
            self._to_values(instance, None if len(instances) == 1 else index)
            for index, instance in enumerate(instances)
        ]

    def _to_values(self, instance: Any, index: int | None) -> dict[str, Any]:
        if type(instance) is self._keyed_type:
            pairs = zip(self._names, msgspec.structs.astuple(instance), strict=True)
            values = {name: value for name, value in pairs if value is not UNSET}
        elif isinstance(instance, tuple):
            values = self._read_list(instance, index)
        elif isinstance(instance, _SkippedList):
            raise WrongValue("The released versions have different features: name each value.", instance=index)
        else:
            values = self._to_row(msgspec.structs.astuple(instance), index)
        for name, clean in self._cleaners:
            if name in values:
                try:
                    values[name] = clean(values[name])
                except OverflowError as error:
                    raise WrongValue("The timestamp is out of range.", field=name, instance=index) from error
        return values

    def _to_row(self, members: Sequence[Any], index: int | None) -> dict[str, Any]:
        """The values of an instance that may give features."""
        pairs = zip((*self._names, *self.features), members, strict=True)
        values = {name: value for name, value in pairs if value is not UNSET}
        given = values.keys() & self.features.keys()
        for name in self._find_fields(frozenset(given)):
            if name not in values:
                raise MissingField(f"Object missing required field `{name}`.", field=name, instance=index)
        for name in given:
            values[name] = _to_feature(values[name], self.features[name], name, index)
        return values

    def _read_list(self, instance: tuple[Any, ...], index: int | None) -> dict[str, Any]:
        values = {}
        for name, value in zip(self._order, instance, strict=True):
            try:
                plain = msgspec.convert(value, _feature_type(self.features[name]))
            except msgspec.ValidationError as error:
                raise WrongValue(f"{error}.", field=name, instance=index) from error
            values[name] = _to_feature(plain, self.features[name], name, index)
        return values

    def _list_needed_fields(self, given: frozenset[str]) -> list[str]:
        """The fields that an instance must have that gives these features, in the order of `fields`."""
        if not given:
            return list(self.fields)
        needed = set().union(*(find_needed(plan, given).fields for plan in self._plans))
        return [name for name in self.fields if name in needed]


def _fields(plan: FeaturePlan) -> list[tuple[str, Dtype]]:
    return [
        *((key.join_key, key.dtype) for key in plan.entities),
        *((field.name, field.dtype) for field in plan.request),
    ]


def _features(plans: Sequence[FeaturePlan], taken: Set[str]) -> dict[str, Dtype]:
    """The columns of every view of the plans. One that is of another dtype in another plan cannot be given."""
    features: dict[str, set[Dtype]] = {}
    for plan in plans:
        for view in plan.views:
            for field in view.features:
                features.setdefault(f"{view.name}__{field.name}", set()).add(field.dtype)
    return {
        column: next(iter(dtypes))
        for column, dtypes in features.items()
        if column not in taken and len(dtypes) == 1
    }


def _optional_members(
    fields: Mapping[str, Dtype], features: Mapping[str, Dtype], first: int
) -> list[tuple[str, Any, Any]]:
    """The members of a struct for fields that may be missing, numbered from `first`."""
    types = {name: json_type(dtype) for name, dtype in fields.items()}
    types |= {name: _feature_type(dtype) for name, dtype in features.items()}
    return [
        (f"f{index}", type_ | UnsetType, msgspec.field(name=name, default=UNSET))
        for index, (name, type_) in enumerate(types.items(), first)
    ]


def _feature_type(dtype: Dtype) -> Any:
    """The type of a given feature. Clients often send all features as numbers of one type."""
    return int | float | None if dtype in ("int64", "float64") else json_type(dtype) | None


def _to_feature(value: Any, dtype: Dtype, name: str, index: int | None) -> Any:
    """The given feature as a lookup would return it; None if it is missing."""
    try:
        if isinstance(value, float) and not math.isfinite(value):
            return None
        if dtype == "float64" and value is not None:
            return float(value)
        if dtype == "int64" and value is not None:
            if value != int(value) or not -(2**63) <= value < 2**63:
                raise WrongValue("It must be a whole number of 64 bits.", field=name, instance=index)
            return int(value)
        clean = input_cleaner(dtype)
        return value if clean is None else clean(value)
    except OverflowError as error:
        raise WrongValue("It is out of range.", field=name, instance=index) from error
