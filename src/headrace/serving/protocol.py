"""Protocol: what a request to a model must be, from the plans of the versions that answer it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from types import GenericAlias
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from headrace.features.plan import Plan
from headrace.http.answer import HttpError

__all__ = ["MOST_INSTANCES", "Requests"]

MOST_INSTANCES = 1_000

_INT64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
_TYPES: dict[str, Any] = {"int64": _INT64, "float64": float, "string": str, "bool": bool, "timestamp": datetime}
_NAMED = re.compile(r"`([^`]+)`")


class _Peek(Struct):
    instances: msgspec.Raw | UnsetType = UNSET


class Requests:
    """Reads the body of a prediction request: one object, or `{"instances": [object, ...]}`.

    An object has every entity key and every request field of the plans, by its name and type, and
    nothing else: a misspelt field is refused, not ignored.

    Args:
        plans: those of the versions that answer.
        shadows: those of shadow versions: what only they ask for may be left out.

    Attributes:
        fields: what a request must have: name → dtype.
    """

    def __init__(self, plans: Sequence[Plan], shadows: Sequence[Plan] = ()) -> None:
        needed = {name: dtype for plan in plans for name, dtype in _asked(plan)}
        optional = {name: dtype for plan in shadows for name, dtype in _asked(plan) if name not in needed}
        self.fields: dict[str, str] = needed
        self._names = (*needed, *optional)
        fields: list[tuple[str, Any, Any]] = [
            (f"f{place}", _kind(dtype), msgspec.field(name=name))
            for place, (name, dtype) in enumerate(needed.items())
        ]
        fields += [
            (f"f{place}", _kind(dtype) | UnsetType, msgspec.field(name=name, default=UNSET))
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
        values = zip(self._names, msgspec.structs.astuple(one), strict=True)
        return {name: value for name, value in values if value is not UNSET}


def _asked(plan: Plan) -> list[tuple[str, str]]:
    return [
        *((key.join_key, key.dtype) for key in plan.entities),
        *((field.name, field.dtype) for field in plan.request),
    ]


def _kind(dtype: str) -> Any:
    inner = dtype.removeprefix("list[").removesuffix("]")
    return GenericAlias(list, (_TYPES[inner],)) if inner != dtype else _TYPES[dtype]


def _invalid(text: str) -> HttpError:
    """msgspec's words, as ours: what is wrong, and the field it is wrong in."""
    what, _, place = text.partition(" - at `$")
    place = place.rstrip("`").lstrip(".")
    named = _NAMED.search(what)
    if named and ("missing required field" in what or "unknown field" in what):
        field = f"{place}.{named[1]}" if place else named[1]
        return HttpError(422, "missing" if "missing" in what else "extra", f"{what}.", field=field)
    return HttpError(422, "wrong_value", f"{what}.", field=place or None)
