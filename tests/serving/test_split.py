"""The split: by shares, the same entity on the same arm, and few entities move when shares change."""

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


def test_an_entity_stays_on_an_arm_that_grows():
    before, after = arm_indexes("m", 0.9, 0.1), arm_indexes("m", 0.8, 0.2)
    assert all(new == 1 for old, new in zip(before, after, strict=True) if old == 1)


def test_two_models_split_independently():
    both = [a and b for a, b in zip(arm_indexes("m", 0.5, 0.5), arm_indexes("n", 0.5, 0.5), strict=True)]
    assert abs(sum(both) / len(both) - 0.25) < 0.02


def test_an_entity_has_the_same_arm_in_every_version_of_the_code():
    split = TrafficSplit("m", [Arm(1, 0.5), Arm(2, 0.5, name="b")])
    assert [split.index(key) for key in ("anna", "zoe", 1, 3)] == [0, 1, 0, 1]
    assert TrafficSplit("m", [Arm(1)]).index("anna") == 0
