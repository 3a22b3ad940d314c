"""The traffic split: chooses the arm for an entity by the value of its key, the model and the arms alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any

from headrace.features.plan import FeaturePlan
from headrace.serving.release import Arm

__all__ = ["TrafficSplit", "find_split_key", "split_value"]


class TrafficSplit:
    """Divides the entities among the answering arms of a release, in proportion to their weights.

    Each arm after the first takes its entities by a hash of their key, the model's name and its own name, from
    those that the arms before it left; the first arm, the champion, gets the rest. So an arm that grows keeps
    the entities that it had, and an arm that is added at the end takes entities of the champion alone.

    Args:
        model: the model's name, which makes the splits of two models independent.
        arms: the answering arms; their weights add up to 1.
    """

    def __init__(self, model: str, arms: Sequence[Arm]) -> None:
        self._takers: list[tuple[int, Any, float]] = []  # index of the arm, its unfinished hash, limit
        for index, arm in enumerate(arms[1:], 1):
            salt = blake2b(f"{model}\0{arm.name}".encode(), digest_size=16).digest()
            left = arms[0].weight + sum(later.weight for later in arms[index:])
            self._takers.append((index, blake2b(digest_size=8, key=salt), arm.weight / left * 2**64))

    def index(self, key: object) -> int:
        """The index of the arm that answers the entity with this key."""
        if not self._takers:
            return 0
        content = repr(key).encode()
        for index, start, limit in self._takers:
            digest = start.copy()  # half of a hash's time is its start
            digest.update(content)
            if int.from_bytes(digest.digest()) < limit:
                return index
        return 0


def find_split_key(plans: Sequence[FeaturePlan]) -> str | None:
    """The entity key that determines the arm, of a release whose answering arms have these plans: the first key
    of the first plan; None if it has no entities."""
    return plans[0].entities[0].join_key if plans[0].entities else None


def split_value(instance: Mapping[str, Any], key: str | None) -> object:
    """What determines the arm of an instance: its value of the key; all of it if it has none."""
    value = None if key is None else instance.get(key)
    # Without a key the plan has no entity, or the instance gives its features itself.
    return sorted(instance.items()) if value is None else value
