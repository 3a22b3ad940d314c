"""FeaturePlan: the features of one model, compiled from Feast's objects and independent of Feast.

It consists of plain structs, which are written as JSON into a version's bundle and read by everything that
computes features: the point-in-time join, the stream, the online lookup.
"""

from __future__ import annotations

from functools import cached_property
from typing import Literal

import msgspec
from msgspec import Struct

from headrace.features.plan.digest import digest_of
from headrace.features.plan.dtypes import Dtype
from headrace.features.plan.views import (
    AsOfView,
    OnDemandInput,
    OnDemandView,
    PlanField,
    StoredView,
    View,
    WindowedView,
)

__all__ = ["EntityKey", "FeaturePlan", "FeatureRef", "decode_plan", "encode_plan"]


class EntityKey(Struct, frozen=True):
    """An entity: Feast's name for it, its join key, and the key's dtype."""

    name: str
    join_key: str
    dtype: Literal["int64", "string"]


class FeatureRef(Struct, frozen=True):
    """One feature: its view, its name in the view, its dtype."""

    view: str
    name: str
    dtype: Dtype

    @property
    def column(self) -> str:
        """Its column in a training set and in answers: `view__name`."""
        return f"{self.view}__{self.name}"


class FeaturePlan(Struct, frozen=True, dict=True):
    """The features of one model.

    Attributes:
        model: the model's name.
        entities: the keys by which its features are looked up.
        views: the views that its features come from; an on-demand view comes after the views that it reads.
        features: the model's columns, in its order.
        request: the fields that a request must carry besides the entity keys.
        missing: the policy for missing features: `model` (the model sees null), `refuse`, or defaults, column
            (`view__name`) → value.
        unavailable: what a lookup does while the online store does not answer: `refuse`, or `missing` (the
            values of stored views are missing).
        labels_topics: the topics that the labels' table is made from.
        service: the name of the feature service that it was compiled from; empty if it is from no service.
    """

    model: str
    entities: tuple[EntityKey, ...]
    views: tuple[View, ...]
    features: tuple[FeatureRef, ...]
    request: tuple[PlanField, ...] = ()
    missing: Literal["model", "refuse"] | dict[str, int | float | str | bool] = "model"
    labels_topics: tuple[str, ...] = ()
    unavailable: Literal["refuse", "missing"] = "refuse"
    service: str = ""

    @cached_property
    def digest(self) -> str:
        """32 hex digits that name this plan by its content."""
        return digest_of(self)

    @cached_property
    def stored(self) -> tuple[StoredView, ...]:
        """The views whose values the online store keeps: as-of and windowed."""
        return tuple(view for view in self.views if not isinstance(view, OnDemandView))

    @cached_property
    def on_demand(self) -> tuple[OnDemandView, ...]:
        """The views that are computed at the moment of the request."""
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
        """Every feature of the stored views, in their order: the columns of a lookup's rows."""
        return tuple(
            FeatureRef(view.name, field.name, field.dtype) for view in self.stored for field in view.features
        )

    @cached_property
    def input_dtypes(self) -> dict[OnDemandInput, Dtype]:
        """The dtype of every possible input of an on-demand view of this plan."""
        dtypes = {OnDemandInput(field.name): field.dtype for field in self.request}
        for view in self.views:
            dtypes |= {OnDemandInput(field.name, view.name): field.dtype for field in view.features}
        return dtypes

    def view(self, name: str) -> View:
        """The view of this name.

        Raises:
            KeyError: the plan has no such view.
        """
        return {view.name: view for view in self.views}[name]

    def is_strict(self, view: AsOfView) -> bool:
        """Whether a row of the view is visible only after its time, not at it. That is so if the labels and the
        view come from the same topic."""
        return not set(view.topics).isdisjoint(self.labels_topics)


def encode_plan(plan: FeaturePlan) -> bytes:
    """Encodes the plan as JSON."""
    return msgspec.json.encode(plan, order="sorted")


_decoder = msgspec.json.Decoder(FeaturePlan)


def decode_plan(text: bytes | str) -> FeaturePlan:
    """Decodes a plan that `encode_plan` encoded.

    Raises:
        msgspec.DecodeError: the text is not a plan.
    """
    plan: FeaturePlan = _decoder.decode(text)
    return plan
