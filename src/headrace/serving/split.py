"""The traffic split: chooses the arm for an entity by the value of its key and the model's name alone."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from itertools import accumulate
from typing import Any

from headrace.features.plan import FeaturePlan
from headrace.serving.release import Arm

__all__ = ["TrafficSplit", "find_split_key", "split_value"]


class TrafficSplit:
    """The answering arms of a release, each with a part of the interval 0 to 1 as long as its weight.

    An entity has a fixed point in the interval: a hash of its key and the model's name. If an arm grows at
    its neighbour's cost, it keeps the entities that it had.

    Args:
        model: the model's name, which makes the splits of two models independent.
        arms: the answering arms; their weights add up to 1.
    """

    def __init__(self, model: str, arms: Sequence[Arm]) -> None:
        self._is_single = len(arms) == 1
        self._salt = blake2b(model.encode(), digest_size=16).digest()
        self._ends = [end * 2**64 for end in accumulate(arm.weight for arm in arms)][:-1]

    def index(self, key: object) -> int:
        """The index of the arm that answers the entity with this key."""
        if self._is_single:
            return 0
        digest = blake2b(repr(key).encode(), digest_size=8, key=self._salt).digest()
        return bisect_right(self._ends, int.from_bytes(digest))


def find_split_key(plans: Sequence[FeaturePlan]) -> str | None:
    """The entity key that determines the arm, of a release whose answering arms have these plans: the first key
    of the first plan; None if it has no entities."""
    return plans[0].entities[0].join_key if plans[0].entities else None


def split_value(instance: Mapping[str, Any], key: str | None) -> object:
    """What determines the arm of an instance: its value of the key; all of it if it has none."""
    value = None if key is None else instance.get(key)
    # Without a key the plan has no entity, or the instance gives its features itself.
    return sorted(instance.items()) if value is None else value
