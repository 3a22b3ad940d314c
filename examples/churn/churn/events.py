"""The events: what a customer decided in the end. They tell which predictions were right."""

from datetime import datetime

from headrace import Struct, event


@event(topic="churn_outcomes", time="decided_at", key="CustomerId", identity=["CustomerId", "decided_at"])
class ChurnOutcome(Struct):
    CustomerId: str
    decided_at: datetime
    is_churned: bool
