"""The events of the shop's site: one each time a customer does something with a product."""

from datetime import datetime
from typing import Annotated, Literal

from headrace import Meta, Struct, event


@event(
    topic="user_behaviour",
    time="event_time",
    key="user_id",
    identity=["user_session", "event_time", "event_type", "product_id"],
    dedup_within="1d",  # a copy within a day is refused as a duplicate
    time_formats=["rfc3339", "%Y-%m-%d %H:%M:%S UTC"],
    coerce=True,  # accepts "35" for 35
)
class UserBehaviour(Struct):
    event_time: datetime
    event_type: Literal["view", "cart", "purchase", "remove_from_cart"]
    product_id: int
    category_id: int
    user_id: int
    price: Annotated[float, Meta(gt=0, le=1_000_000)]  # a sum of larger ones could be infinite
    user_session: str
    category_code: str | None = None
    brand: str | None = None
