"""The traffic split: chooses the arm for an entity by the value of its key and the model's name alone."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from hashlib import blake2b
from itertools import accumulate

from headrace.serving.release import Arm

__all__ = ["TrafficSplit"]


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
