"""The record of one prediction, as it lies on topic `headrace.predictions`."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from msgspec import Struct

from headrace.declare.event import event

__all__ = ["TOPIC", "Prediction", "Value"]

TOPIC = "headrace.predictions"
Value = float | str | list[float]
"""What a model answers: a number, a label, or a list of numbers such as one probability a class."""


@event(topic=TOPIC, time="at", identity=["id"], dedup_within="1d")
class Prediction(Struct, frozen=True):
    """One prediction, with what it was made from.

    Attributes:
        id: a UUIDv7; the response carries it.
        model, version: which model predicted.
        plan: the digest of the version's feature plan.
        arm: the release's arm, such as `champion`.
        shadow: whether a shadow arm made it; nobody received it then.
        at: the time for which the features were looked up.
        instance: its index among the instances of the request, from 0.
        entity: entity key → value.
        request: the request's other fields.
        features: feature (`view__name`) → value as the model saw it; null: missing.
        value: the model's answer.
        latency_ms: milliseconds that lookup and model took. Instances of one request that the same arm
            predicts are looked up and predicted together: they have the same latency.
        missing: the features that were missing.
        positions: view → the position that its values were read at.
        release: the id of the release in force.
        shadow_of: of a shadow's prediction, the id of the prediction that was sent to the client.
    """

    id: str
    model: str
    version: int
    plan: str
    arm: str
    shadow: bool
    at: datetime
    instance: int
    entity: dict[str, Any]
    request: dict[str, Any]
    features: dict[str, Any]
    value: Value
    latency_ms: float
    missing: list[str]
    positions: dict[str, Any]
    release: str
    shadow_of: str | None = None
