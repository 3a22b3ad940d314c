"""The split: by shares, the same customer on the same arm, and few move when shares change."""

from headrace.serving.release import Arm
from headrace.serving.split import Split


def placed(model, *weights, customers=20_000):
    split = Split(model, [Arm(n, weight, name=str(n)) for n, weight in enumerate(weights)])
    return [split.place(customer) for customer in range(customers)]


def test_shares_are_met():
    places = placed("m", 0.7, 0.2, 0.1)
    shares = [places.count(arm) / len(places) for arm in range(3)]
    assert all(abs(share - wanted) < 0.015 for share, wanted in zip(shares, (0.7, 0.2, 0.1), strict=True))


def test_a_customer_stays_on_an_arm_that_grows():
    before, after = placed("m", 0.9, 0.1), placed("m", 0.8, 0.2)
    assert all(new == 1 for old, new in zip(before, after, strict=True) if old == 1)


def test_two_models_split_independently():
    both = [a and b for a, b in zip(placed("m", 0.5, 0.5), placed("n", 0.5, 0.5), strict=True)]
    assert abs(sum(both) / len(both) - 0.25) < 0.02


def test_the_place_depends_on_nothing_else():
    split = Split("m", [Arm(1, 0.5), Arm(2, 0.5, name="b")])
    assert [split.place(key) for key in ("anna", "zoe", 1, 3)] == [
        0,
        1,
        0,
        1,
    ]  # for good: customers depend on it
    assert Split("m", [Arm(1)]).place("anna") == 0
