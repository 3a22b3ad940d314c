"""The internals of pydbzengine that capture uses exist."""

from __future__ import annotations

import inspect

import pytest


def test_an_engine_starts_its_jvm_by_a_method_without_parameters() -> None:
    pydbzengine = pytest.importorskip("pydbzengine", reason="pydbzengine is not installed")
    method = pydbzengine.DebeziumJsonEngine._ensure_jvm_started
    assert list(inspect.signature(method).parameters) == ["self"]
