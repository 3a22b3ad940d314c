"""Outcomes: the events that say what really happened after a model's predictions."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import attrs
import msgspec

from headrace.declare.convert import to_duration
from headrace.declare.event import Contract, contract_of
from headrace.declare.place import Place
from headrace.kernel.errors import ProjectError

__all__ = ["Outcomes"]


def _to_contract(event: Any) -> Contract:
    contract = contract_of(event)
    if contract is None or contract.row_key:
        raise ProjectError(f"Outcomes({event!r}): name an @event class", where=str(Place.of_caller()))
    return contract


@attrs.frozen
class Outcomes:
    """Where the outcomes of a model's predictions come from.

        churn = Model(..., outcomes=Outcomes(ChurnOutcome, value="is_churned", within="90d"))

    A prediction's outcome is the first event of its entity in the time from the prediction to `within` later:
    the event has the model's entity keys under their names. With `prediction`, it is the first event that names
    the prediction's id. Of events of one time the last that arrived counts.

    Attributes:
        event: an @event class; kept as its contract.
        value: the event's field with what really happened: a value of the model's target.
        within: how long after a prediction its outcome may happen; text such as `90d`, or a timedelta.
        prediction: the event's field with the `id` of the prediction, which the response had; None: outcomes
            are found by entity keys.

    Raises:
        ProjectError: `event` is not an @event class, it lacks a field, or `within` is not a duration above 0.
    """

    event: Contract = attrs.field(converter=_to_contract)
    value: str = attrs.field(kw_only=True)
    within: timedelta = attrs.field(default=timedelta(days=30), converter=to_duration, kw_only=True)
    prediction: str | None = attrs.field(default=None, kw_only=True)

    def __attrs_post_init__(self) -> None:
        place = str(Place.of_caller())
        fields = [field.name for field in msgspec.structs.fields(self.event.struct)]
        for role, name in (("value", self.value), ("prediction", self.prediction)):
            if name is not None and name not in fields:
                raise ProjectError(
                    f"{role}={name!r} is not a field of {self.event.struct.__name__}",
                    where=place,
                    remedy=f"Its fields are {', '.join(fields)}.",
                )
        if self.within <= timedelta(0):
            raise ProjectError(f"within={self.within} must be longer than 0", where=place)
