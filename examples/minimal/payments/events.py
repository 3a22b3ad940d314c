from datetime import datetime
from typing import Annotated

from headrace import Meta, Struct, event


@event(topic="payments", time="paid_at", key="card", identity=["payment"], dedup_within="1d")
class Payment(Struct):
    payment: str
    paid_at: datetime
    card: int
    amount: Annotated[float, Meta(gt=0)]
    is_refused: bool
