"""The shop's contract refuses prices that could make their sum infinite, which would fail every build."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import msgspec
import pytest

EVENT = {
    "event_time": "2026-01-15T12:00:00Z",
    "event_type": "view",
    "product_id": 1,
    "category_id": 1,
    "user_id": 1,
    "user_session": "a",
}


@pytest.mark.parametrize(("price", "is_valid"), [(1_000_000, True), (1_000_000.01, False), (1e308, False)])
def test_a_price_is_bounded(monkeypatch: pytest.MonkeyPatch, price: float, is_valid: bool) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "examples" / "shop"))
    contract = importlib.import_module("shop.events").UserBehaviour
    raw = json.dumps({**EVENT, "price": price})
    if is_valid:
        assert msgspec.json.decode(raw, type=contract).price == price
    else:
        with pytest.raises(msgspec.ValidationError, match=r"\$.price"):
            msgspec.json.decode(raw, type=contract)
