"""The views of a feature plan, and their parts. All times are microseconds."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, Literal

from msgspec import Struct

from headrace.features.plan.digest import digest_of
from headrace.features.plan.dtypes import Dtype

__all__ = [
    "LAYOUT",
    "LIFETIME",
    "AggregateFunction",
    "Aggregation",
    "AsOfView",
    "OnDemandInput",
    "OnDemandView",
    "PlanField",
    "StoredView",
    "View",
    "WindowedView",
]


LIFETIME = 1 << 61
"""The window and the hop of an aggregation over all events of an entity, microseconds: its begin, at whatever
moment, is before every instant."""

_OLDEST = -62_135_596_800_000_000  # the first instant of a datetime


class PlanField(Struct, frozen=True):
    """A named value and its dtype."""

    name: str
    dtype: Dtype


class AggregateFunction(Struct, frozen=True):
    """The name of an aggregate function (`features.aggregates`), and the n of `last(n)` (0 for others)."""

    name: str
    n: int = 0


class Aggregation(Struct, frozen=True):
    """One feature of a windowed view.

    Attributes:
        name: the feature's name.
        column: the column of the view's table that is aggregated; null does not count.
        function: the aggregate function.
        window: the window's length W, microseconds.
        hop: the step by which the window's start moves, microseconds: the window at t is
            [floor(t - W, hop), t).
        dtype: the dtype of the result.
        offset: how long before t the window ends, microseconds. If it is not 0, the end moves in steps,
            too: the window is [floor(t - offset - W, hop), floor(t - offset, hop)).
    """

    name: str
    column: str
    function: AggregateFunction
    window: int
    hop: int
    dtype: Dtype
    offset: int = 0

    def begin(self, at: int) -> int:
        """The first microsecond of the window at `at`, microseconds."""
        return max((at - self.offset - self.window) // self.hop * self.hop, _OLDEST)

    def end(self, at: int) -> int:
        """The first microsecond after the window at `at`, microseconds."""
        return (at - self.offset) // self.hop * self.hop if self.offset else at


LAYOUT = 3
"""The version of the form in which online stores keep states. A view is stored under its digest, so a store in
another form is filled anew, and never misread."""


class _Digested(Struct, frozen=True, dict=True):
    @cached_property
    def digest(self) -> str:
        """The digest of everything that the view's values depend on, 32 hex digits."""
        return digest_of(self)


class _Stored(Struct, frozen=True, dict=True):
    @cached_property
    def digest(self) -> str:
        """The digest of everything that the view's values depend on, and of the form of its states: 32 hex
        digits."""
        return digest_of((LAYOUT, self))


class AsOfView(_Stored, frozen=True, tag="as_of"):
    """A plain feature view: its value at t is the newest row of the entity that is not after t, within ttl.

    Attributes:
        name: the view's name.
        keys: the join keys of its entity, in their order; none if all rows are of one entity.
        table: the lake table that it reads.
        time: the column with the time from which a row is valid.
        features: feature name and dtype.
        ttl: the greatest age of a row, microseconds; None for any age.
        delay: how long after its time a row is known to serving, microseconds.
        topics: the topics that its table is made from.
        field_mapping: column of the table → its name in this view, for columns whose name differs. Keys, time,
            features and `created` are names in the view.
        created: the column that decides between rows of one key and time: the greatest is visible.
        key_dtypes: the dtype of each key, by which online stores name their states. None where a view is not
            part of a plan.
        is_current: whether the table has the current rows of a database's table: it has the columns of a
            changelog, and is none.
    """

    name: str
    keys: tuple[str, ...]
    table: str
    time: str
    features: tuple[PlanField, ...]
    ttl: int | None = None
    topics: tuple[str, ...] = ()
    delay: int = 0
    field_mapping: dict[str, str] = {}
    created: str | None = None
    key_dtypes: tuple[Dtype, ...] = ()
    is_current: bool = False

    def column(self, name: str) -> str:
        """The table's column of a key, the time or a feature."""
        return next((column for column, mapped in self.field_mapping.items() if mapped == name), name)


class WindowedView(_Stored, frozen=True, tag="windowed"):
    """A feature view with aggregations.

    Attributes:
        name: the view's name.
        keys: the join keys of its entity, in their order.
        topic: the topic whose events it follows.
        table: the lake table that it aggregates: the topic's table, or a rowwise one.
        rowwise: the name of the rowwise table's function, which is also run on the stream; None if the view
            reads
            the topic's table directly.
        time: the table's column with the time of the event.
        columns: name and dtype of the columns that are aggregated.
        aggregations: its features.
        code: the fingerprint of the rowwise function, so that an edited function makes another view.
        key_dtypes: as those of an AsOfView.
    """

    name: str
    keys: tuple[str, ...]
    topic: str
    table: str
    rowwise: str | None
    time: str
    columns: tuple[PlanField, ...]
    aggregations: tuple[Aggregation, ...]
    code: str = ""
    key_dtypes: tuple[Dtype, ...] = ()

    @property
    def features(self) -> tuple[PlanField, ...]:
        """Its features' names and dtypes."""
        return tuple(PlanField(aggregation.name, aggregation.dtype) for aggregation in self.aggregations)

    @property
    def longest(self) -> int:
        """How far back the start of any of its windows can be, microseconds."""
        return max(
            aggregation.offset + aggregation.window + aggregation.hop for aggregation in self.aggregations
        )

    def earliest(self, at: int) -> int:
        """The earliest instant that any of its windows at `at` can hold, microseconds."""
        return max(at - self.longest, _OLDEST)


class OnDemandInput(Struct, frozen=True):
    """An input of an on-demand function: the feature `name` of `view`, or, without a view, a field of the
    request."""

    name: str
    view: str | None = None


class OnDemandView(_Digested, frozen=True, tag="on_demand"):
    """Features that a function computes at the moment of the request.

    The function is self-contained source text, not a pickle, so that any version of Python can run it and
    people can read it. It is executed as it is: accept it only from a bundle whose signature was verified.

    Attributes:
        name: the view's name.
        inputs: the function's inputs, each under its name; a feature also as `view__name`.
        features: the function's results.
        mode: the type of the function's argument and result: `python` for a dict of lists, `row` for a dict of
            scalars, `pandas` for a DataFrame.
        function: the name of the function in `source`.
        source: Python text that defines the function and everything that it uses.
    """

    name: str
    inputs: tuple[OnDemandInput, ...]
    features: tuple[PlanField, ...]
    mode: Literal["python", "row", "pandas"]
    function: str
    source: str

    @cached_property
    def compiled_function(self) -> Callable[[Any], Any]:
        """The function. The source text is executed once, in a separate namespace."""
        namespace: dict[str, Any] = {"__name__": f"on_demand_{self.name}"}
        exec(compile(self.source, f"<on-demand view {self.name}>", "exec"), namespace)  # noqa: S102
        function: Callable[[Any], Any] = namespace[self.function]
        return function


StoredView = AsOfView | WindowedView
View = AsOfView | WindowedView | OnDemandView
