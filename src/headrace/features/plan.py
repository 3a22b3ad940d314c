"""Plan: the compiled, Feast-free form of the features of one model.

Plain structs that are written as JSON into a version's bundle and read by whoever computes
features: the point-in-time join, the stream, the online lookup. All times in it are microseconds.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, Literal

import msgspec
from msgspec import Struct

from headrace.features.functions import Dtype, Function
from headrace.kernel.digest import short_digest

__all__ = [
    "Aggregation", "AsOfView", "EntityKey", "FeatureRef", "Field", "Input", "OnDemandView", "Plan",
    "StoredView", "View", "WindowedView", "decode_plan", "encode_plan",
]  # fmt: skip


class EntityKey(Struct, frozen=True):
    """An entity: Feast's name for it, the column that identifies one, and that column's dtype."""

    name: str
    join_key: str
    dtype: Literal["int64", "string"]


class Field(Struct, frozen=True):
    """A named value and its dtype."""

    name: str
    dtype: Dtype


class FeatureRef(Struct, frozen=True):
    """One feature: the view that has it, its name there, its dtype."""

    view: str
    name: str
    dtype: Dtype

    @property
    def column(self) -> str:
        """Its column in a training set and in answers: `view__name`."""
        return f"{self.view}__{self.name}"


class Aggregation(Struct, frozen=True):
    """One feature of a windowed view.

    Attributes:
        name: the feature's name.
        column: the column of the view's table that is aggregated; null does not count.
        function: how.
        window: its length W, microseconds.
        hop: the window at t is [floor(t - W, hop), t), microseconds.
        dtype: of the result.
    """

    name: str
    column: str
    function: Function
    window: int
    hop: int
    dtype: Dtype


class _Digested(Struct, frozen=True, dict=True):
    @cached_property
    def digest(self) -> str:
        """32 hex digits that name this view by all that its values depend on."""
        return _digest(self)


class AsOfView(_Digested, frozen=True, tag="as_of"):
    """A plain feature view: the newest row of an entity whose time is not after t, within ttl.

    Attributes:
        name: its name.
        keys: the join keys of its entity, in their order.
        table: the lake table it reads.
        time: the table's column that says from when a row holds.
        features: feature name and dtype; the table has a column of each name.
        ttl: how old a row may be, microseconds; None: any age.
        topics: the topics its table is made from.
    """

    name: str
    keys: tuple[str, ...]
    table: str
    time: str
    features: tuple[Field, ...]
    ttl: int | None = None
    topics: tuple[str, ...] = ()


class WindowedView(_Digested, frozen=True, tag="windowed"):
    """A feature view with aggregations.

    Attributes:
        name: its name.
        keys: the join keys of its entity, in their order.
        topic: the topic whose events it follows.
        table: the lake table that it aggregates: the topic's own, or a rowwise one.
        rowwise: the name of the rowwise table's function, which is also run on the stream; None
            where the view reads the topic's table directly.
        time: the table's column that says when an event happened.
        columns: name and dtype of the columns that are aggregated.
        aggregations: its features.
        code: the fingerprint of the rowwise function, so that its edit makes another view.
    """

    name: str
    keys: tuple[str, ...]
    topic: str
    table: str
    rowwise: str | None
    time: str
    columns: tuple[Field, ...]
    aggregations: tuple[Aggregation, ...]
    code: str = ""

    @property
    def features(self) -> tuple[Field, ...]:
        """Its features' names and dtypes."""
        return tuple(Field(one.name, one.dtype) for one in self.aggregations)

    @property
    def longest(self) -> int:
        """How far back any of its windows can begin, microseconds."""
        return max(one.window + one.hop for one in self.aggregations)


class Input(Struct, frozen=True):
    """What an on-demand function is given under `name`: a feature of `view`, or, without one, a field
    of the request."""

    name: str
    view: str | None = None


class OnDemandView(_Digested, frozen=True, tag="on_demand"):
    """Features computed at the moment of asking, by a function from named inputs to named outputs.

    The function is carried as text that stands on its own: no pickle, so it holds on any Python and
    can be read; its text names what it does. It is run as it is: take it only from a bundle whose
    signature was checked.

    Attributes:
        name: its name.
        inputs: what the function is given: each under its name, and a feature also as `view__name`.
        features: what it returns.
        mode: `python`: from a dict of lists to a dict of lists; `row`: from a dict of scalars to a
            dict of scalars; `pandas`: from a DataFrame to a DataFrame.
        function: its name in `source`.
        source: Python text that defines it and everything it reaches.
    """

    name: str
    inputs: tuple[Input, ...]
    features: tuple[Field, ...]
    mode: Literal["python", "row", "pandas"]
    function: str
    source: str

    @cached_property
    def defined(self) -> Callable[[Any], Any]:
        """The function itself: its source, run once in a namespace of its own."""
        space: dict[str, Any] = {"__name__": f"on_demand_{self.name}"}
        exec(compile(self.source, f"<on-demand view {self.name}>", "exec"), space)  # noqa: S102
        function: Callable[[Any], Any] = space[self.function]
        return function


StoredView = AsOfView | WindowedView
View = AsOfView | WindowedView | OnDemandView


class Plan(Struct, frozen=True, dict=True):
    """The features of one model.

    Attributes:
        model: its name.
        entities: the keys by which its features are looked up.
        views: the views its features come from, on-demand views after those that they read.
        features: the model's columns, in its order.
        request: what a request must carry besides the entity keys.
        missing: what a missing feature means: `model` (the model sees null), `refuse`, or defaults,
            column (`view__name`) → value.
        labels_topics: the topics that the labels' table is made from.
    """

    model: str
    entities: tuple[EntityKey, ...]
    views: tuple[View, ...]
    features: tuple[FeatureRef, ...]
    request: tuple[Field, ...] = ()
    missing: Literal["model", "refuse"] | dict[str, int | float | str | bool] = "model"
    labels_topics: tuple[str, ...] = ()

    @cached_property
    def digest(self) -> str:
        """32 hex digits that name this plan."""
        return _digest(self)

    @cached_property
    def stored(self) -> tuple[StoredView, ...]:
        """The views whose values are kept: as-of and windowed."""
        return tuple(view for view in self.views if not isinstance(view, OnDemandView))

    @cached_property
    def on_demand(self) -> tuple[OnDemandView, ...]:
        """The views that are computed at the moment of asking."""
        return tuple(view for view in self.views if isinstance(view, OnDemandView))

    @cached_property
    def windowed(self) -> tuple[WindowedView, ...]:
        """The windowed views."""
        return tuple(view for view in self.views if isinstance(view, WindowedView))

    @cached_property
    def as_of(self) -> tuple[AsOfView, ...]:
        """The as-of views."""
        return tuple(view for view in self.views if isinstance(view, AsOfView))

    @cached_property
    def looked_up(self) -> tuple[FeatureRef, ...]:
        """Every feature of the stored views, in their order: what a lookup returns."""
        return tuple(
            FeatureRef(view.name, field.name, field.dtype) for view in self.stored for field in view.features
        )

    @cached_property
    def input_dtypes(self) -> dict[Input, Dtype]:
        """The dtype of whatever an on-demand view of this plan is given."""
        dtypes = {Input(one.name): one.dtype for one in self.request}
        return dtypes | {Input(one.name, view.name): one.dtype for view in self.views for one in view.features}

    def view(self, name: str) -> View:
        """The view of this name. Raises KeyError where there is none."""
        return {view.name: view for view in self.views}[name]

    def strict(self, view: AsOfView) -> bool:
        """Whether a row of the view is seen only after its time, not at it: so where the labels come
        from a topic that the view also comes from."""
        return not set(view.topics).isdisjoint(self.labels_topics)


def encode_plan(plan: Plan) -> bytes:
    """The plan as JSON."""
    return msgspec.json.encode(plan, order="sorted")


_decoder = msgspec.json.Decoder(Plan)


def decode_plan(text: bytes | str) -> Plan:
    """The plan that `encode_plan` wrote. Raises msgspec.DecodeError on anything else."""
    plan: Plan = _decoder.decode(text)
    return plan


def _digest(value: Struct) -> str:
    return short_digest(msgspec.json.encode(value, order="sorted"))
