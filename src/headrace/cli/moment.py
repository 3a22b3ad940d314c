"""A moment as an argument or option: a time, or how long ago."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import click

from headrace.kernel.time import now, parse_duration

__all__ = ["Moment"]


class Moment(click.ParamType[datetime]):
    """An instant: `2026-03-01T12:00`, in UTC unless it names a zone, or `2h`: two hours ago."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """The instant; an error of the command line if the text is neither form."""
        try:
            return now() - parse_duration(value)
        except (ValueError, OverflowError):  # another form, or before the year 1
            pass
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is not a moment: write 2h for two hours ago, or 2026-03-01T12:00", param, ctx)
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
