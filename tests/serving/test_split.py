"""The split: by shares, the same entity on the same arm, and few entities move when shares change."""

from collections import Counter

import pytest

from headrace.serving.release import Arm
from headrace.serving.split import TrafficSplit


def arm_indexes(model, *weights, entities=20_000):
    """The arm of each entity, by its index."""
    split = TrafficSplit(model, [Arm(n, weight, name=str(n)) for n, weight in enumerate(weights)])
    return [split.index(entity) for entity in range(entities)]


def test_each_arm_gets_its_share():
    indexes = arm_indexes("m", 0.7, 0.2, 0.1)
    shares = [indexes.count(arm) / len(indexes) for arm in range(3)]
    assert all(abs(share - wanted) < 0.015 for share, wanted in zip(shares, (0.7, 0.2, 0.1), strict=True))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((0.9, 0.1), (0.8, 0.2)),
        ((0.9, 0.1), (0.8, 0.1, 0.1)),
        ((0.8, 0.1, 0.1), (0.5, 0.1, 0.4)),
        ((0.7, 0.1, 0.1, 0.1), (0.4, 0.1, 0.4, 0.1)),
    ],
    ids=["it grows", "another is added", "another grows", "one between others grows"],
)
def test_an_entity_stays_on_its_arm_while_it_or_one_after_it_grows(before, after):
    grows = next((arm for arm, (old, new) in enumerate(zip(before, after, strict=False)) if new > old), 99)
    moves = Counter(zip(arm_indexes("m", *before), arm_indexes("m", *after), strict=True))
    assert [move for move in moves if 0 < move[0] <= grows and move[1] != move[0]] == []


def test_shares_that_add_up_to_1_within_rounding_are_divided():
    indexes = arm_indexes("m", 1e-10, 0.5, 0.5, 1e-10)
    assert abs(indexes.count(1) / len(indexes) - 0.5) < 0.015
    assert indexes.count(1) + indexes.count(2) == len(indexes)


def test_two_models_split_independently():
    both = [a and b for a, b in zip(arm_indexes("m", 0.5, 0.5), arm_indexes("n", 0.5, 0.5), strict=True)]
    assert abs(sum(both) / len(both) - 0.25) < 0.02


def test_an_entity_has_the_same_arm_in_every_version_of_the_code():
    split = TrafficSplit("m", [Arm(1, 0.5), Arm(2, 0.5, name="b")])
    assert [split.index(key) for key in ("anna", "carl", 1, 6)] == [0, 1, 0, 1]
    assert TrafficSplit("m", [Arm(1)]).index("anna") == 0
