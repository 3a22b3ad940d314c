"""The shop's generator: repeatable, with a known share of broken lines and a correct best AUC."""

from __future__ import annotations

import importlib
import json
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

END = datetime(2026, 1, 15, 12, tzinfo=UTC)
EVENTS = 20_000


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    folder = Path(__file__).parents[2] / "examples" / "shop"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        return importlib.import_module("generate")


def test_lines_depend_on_the_seed_alone(generator: ModuleType) -> None:
    first, same, other = (generator.generate(EVENTS, seed, END) for seed in (1, 1, 2))
    assert first.lines == same.lines
    assert first.truth.equals(same.truth)
    assert first.lines != other.lines


def test_a_tenth_of_the_lines_is_broken_in_every_known_way(generator: ModuleType) -> None:
    generated = generator.generate(EVENTS, 3, END)
    assert len(generated.lines) == EVENTS
    assert sum(generated.broken.values()) == EVENTS // 10
    assert set(generated.broken) == set(generator.KINDS)
    assert min(generated.broken.values()) > EVENTS // 100
    unreadable = 0
    for line in generated.lines:
        try:
            json.loads(line)
        except ValueError:
            unreadable += 1
    assert unreadable == generated.broken["not JSON"]


def test_true_probabilities_match_the_labels_and_give_the_best_auc(generator: ModuleType) -> None:
    generated = generator.generate(100_000, 4, END)
    assert 0.75 < generated.best_auc < 0.9
    # Among labels of about the same probability, that share is bought.
    probability = generated.truth["probability"].to_numpy()
    bought = generated.truth["is_purchased"].to_numpy()
    for low in np.arange(0, 1, 0.1):
        among = (probability >= low) & (probability < low + 0.1)
        expected = probability[among].mean()
        spread = np.sqrt(expected * (1 - expected) / among.sum())
        # A cart shares its visit's outcome with the view, so rows are not independent: 6 sigma.
        assert abs(bought[among].mean() - expected) < 6 * spread + 0.01


def test_auc_counts_ties_half(generator: ModuleType) -> None:
    assert generator.roc_auc(np.array([0, 1, 1]), np.array([0.1, 0.1, 0.9])) == pytest.approx(0.75)
