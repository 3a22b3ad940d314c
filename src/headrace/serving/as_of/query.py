"""The query of a request for a past moment: `?as_of=2026-03-01T12:00:00Z`, and perhaps `&version=3`."""

from __future__ import annotations

from datetime import UTC, datetime
from urllib.parse import unquote

from msgspec import Struct

from headrace.http.responses import HttpError
from headrace.kernel.time import now

__all__ = ["AsOf", "parse_as_of"]


class AsOf(Struct, frozen=True):
    """What a request asks for.

    Attributes:
        moment: the past moment, in UTC.
        version: the version that answers; None: the one that answered then.
    """

    moment: datetime
    version: int | None = None


def parse_as_of(query: bytes) -> AsOf | None:
    """The query's `as_of` and `version`; None if it has no `as_of`.

    A `+` is a plus, not a space: it is the sign of an offset.

    Raises:
        HttpError: 400: the moment has no offset, is not past, or is not a moment; the version is not a number;
            or there is another parameter.
    """
    parts = [part.partition("=") for part in unquote(query.decode("latin-1")).split("&")]
    values = {name: value for name, _, value in parts}
    if "as_of" not in values:
        return None
    is_known = values.keys() <= {"as_of", "version", "explain"} and values.get("explain", "1") in ("0", "1")
    if len(values) != len(parts) or not is_known:
        what = "Beside as_of there may only be version, and explain, which must be 0 or 1; each once."
        raise HttpError(400, "query", what)
    version = values.get("version")
    if version is not None and not (version.isascii() and version.isdecimal() and len(version) < 10):
        raise HttpError(400, "query", f"{version!r} is not the number of a version.", field="version")
    return AsOf(_parse_moment(values["as_of"]), None if version is None else int(version))


def _parse_moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            what = f"{text!r} has no offset from UTC: write 2026-03-01T12:00:00Z or ...+02:00."
            raise HttpError(400, "as_of", what, field="as_of")
        moment = moment.astimezone(UTC)
    except (ValueError, OverflowError):
        what = f"{text!r} is not a moment: write 2026-03-01T12:00:00Z."
        raise HttpError(400, "as_of", what, field="as_of") from None
    if moment > now():
        what = f"{text!r} is not past; without as_of the answer is that of now."
        raise HttpError(400, "as_of", what, field="as_of")
    return moment
