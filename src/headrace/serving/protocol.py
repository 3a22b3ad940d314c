"""Protocol: what a request to a model must be, from the plans of the versions that answer it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from headrace.features.plan import Dtype, FeaturePlan
from headrace.features.values.conversion import input_cleaner, json_type
from headrace.http.responses import HttpError

__all__ = ["MOST_INSTANCES", "Requests"]

MOST_INSTANCES = 1_000

_NAMED = re.compile(r"`([^`]+)`")


class _Peek(Struct):
    instances: msgspec.Raw | UnsetType = UNSET


class Requests:
    """Reads the body of a prediction request: one object, or `{"instances": [object, ...]}`.

    An object has every entity key and every request field of the plans, by its name and type, and
    nothing else: a misspelt field is refused, not ignored. A timestamp names its offset and becomes UTC.

    Args:
        plans: those of the versions that answer.
        shadows: those of shadow versions: what only they ask for may be left out.

    Attributes:
        fields: what a request must have: name → dtype.
    """

    def __init__(self, plans: Sequence[FeaturePlan], shadows: Sequence[FeaturePlan] = ()) -> None:
        needed = {name: dtype for plan in plans for name, dtype in _asked(plan)}
        optional = {name: dtype for plan in shadows for name, dtype in _asked(plan) if name not in needed}
        self.fields: dict[str, Dtype] = needed
        self._names = (*needed, *optional)
        self._cleaners = [
            (name, cleaner)
            for name, dtype in (*needed.items(), *optional.items())
            if "timestamp" in dtype and (cleaner := input_cleaner(dtype)) is not None
        ]
        fields: list[tuple[str, Any, Any]] = [
            (f"f{place}", json_type(dtype), msgspec.field(name=name))
            for place, (name, dtype) in enumerate(needed.items())
        ]
        fields += [
            (f"f{place}", json_type(dtype) | UnsetType, msgspec.field(name=name, default=UNSET))
            for place, (name, dtype) in enumerate(optional.items(), len(needed))
        ]
        one = msgspec.defstruct("Request", fields, forbid_unknown_fields=True, gc=False)
        many = msgspec.defstruct(
            "Requests",
            [("instances", Annotated[list[one], Meta(min_length=1, max_length=MOST_INSTANCES)])],  # type: ignore[valid-type]
            forbid_unknown_fields=True,
        )
        self._one: Any = msgspec.json.Decoder(one).decode
        self._many: Any = msgspec.json.Decoder(many).decode
        self._peek = msgspec.json.Decoder(_Peek).decode

    def read(self, body: bytes) -> tuple[list[dict[str, Any]], bool]:
        """The requests as dicts, and whether they came as `instances`.

        Raises:
            HttpError: 400 where it is no JSON object, 422 where a field is wrong; it names the field.
        """
        try:
            several = b'"instances"' in body and self._peek(body).instances is not UNSET
            found = self._many(body).instances if several else [self._one(body)]
        except msgspec.ValidationError as error:
            raise _invalid(str(error)) from error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise HttpError(400, "not_json", f"The body is not JSON: {error}") from error
        return [self._plain(one) for one in found], several

    def _plain(self, one: Struct) -> dict[str, Any]:
        pairs = zip(self._names, msgspec.structs.astuple(one), strict=True)
        values = {name: value for name, value in pairs if value is not UNSET}
        for name, clean in self._cleaners:  # timestamps become UTC, as training has them
            if name in values:
                try:
                    values[name] = clean(values[name])
                except OverflowError as error:
                    raise HttpError(422, "wrong_value", "The timestamp is out of range.", field=name) from error
        return values


def _asked(plan: FeaturePlan) -> list[tuple[str, Dtype]]:
    return [
        *((key.join_key, key.dtype) for key in plan.entities),
        *((field.name, field.dtype) for field in plan.request),
    ]


def _invalid(text: str) -> HttpError:
    """msgspec's words, as ours: what is wrong, and the field it is wrong in."""
    what, _, place = text.partition(" - at `$")
    place = place.rstrip("`").lstrip(".")
    named = _NAMED.search(what)
    if named and ("missing required field" in what or "unknown field" in what):
        field = f"{place}.{named[1]}" if place else named[1]
        return HttpError(422, "missing" if "missing" in what else "extra", f"{what}.", field=field)
    return HttpError(422, "wrong_value", f"{what}.", field=place or None)
