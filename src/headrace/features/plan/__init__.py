"""The feature plan: the features of one model as plain data, compiled from Feast's objects."""

from headrace.features.plan.dtypes import Dtype
from headrace.features.plan.hop import hop_of
from headrace.features.plan.needed import Needed, find_needed
from headrace.features.plan.plan import EntityKey, FeaturePlan, FeatureRef, decode_plan, encode_plan
from headrace.features.plan.views import (
    LAYOUT,
    LIFETIME,
    AggregateFunction,
    Aggregation,
    AsOfView,
    OnDemandInput,
    OnDemandView,
    PlanField,
    StoredView,
    View,
    WindowedView,
)

__all__ = [
    "LAYOUT",
    "LIFETIME",
    "AggregateFunction",
    "Aggregation",
    "AsOfView",
    "Dtype",
    "EntityKey",
    "FeaturePlan",
    "FeatureRef",
    "Needed",
    "OnDemandInput",
    "OnDemandView",
    "PlanField",
    "StoredView",
    "View",
    "WindowedView",
    "decode_plan",
    "encode_plan",
    "find_needed",
    "hop_of",
]
