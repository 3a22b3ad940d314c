"""Backoff: pauses grow with each failure, up to a limit, and begin anew after a success."""

from __future__ import annotations

from headrace.kernel.backoff import Backoff


def test_pauses_double_up_to_the_longest_and_begin_anew_after_a_success() -> None:
    backoff = Backoff(1.0, 10.0)
    for expected in (1, 2, 4, 8, 10, 10):
        assert expected / 2 <= backoff.next_pause() <= expected
    backoff.reset()
    assert backoff.next_pause() <= 1.0


def test_pauses_stay_finite_after_very_many_failures() -> None:
    backoff = Backoff(1.0, 60.0)
    assert all(backoff.next_pause() <= 60 for _ in range(5_000))
