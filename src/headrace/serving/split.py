"""Split: which arm answers a customer. It depends on the customer and the model alone."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from hashlib import blake2b
from itertools import accumulate

from headrace.serving.release import Arm

__all__ = ["Split"]


class Split:
    """The answering arms of a release, by their shares of the interval 0 to 1.

    An entity key has one place in the interval, by a hash of it and the model's name. Where an arm
    grows at its neighbour's cost, the customers that it had stay with it.

    Args:
        model: the model's name, so that the splits of two models are independent.
        arms: those that answer; their weights add up to 1.
    """

    def __init__(self, model: str, arms: Sequence[Arm]) -> None:
        self._only = len(arms) == 1
        self._salt = blake2b(model.encode(), digest_size=16).digest()
        self._ends = [end * 2**64 for end in accumulate(arm.weight for arm in arms)][:-1]

    def place(self, key: object) -> int:
        """The index of the arm that answers this entity key."""
        if self._only:
            return 0
        digest = blake2b(repr(key).encode(), digest_size=8, key=self._salt).digest()
        return bisect_right(self._ends, int.from_bytes(digest))
