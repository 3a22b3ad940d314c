"""Errors: they say what, where and what to do, also after crossing a process."""

from __future__ import annotations

import pickle

import pytest

from headrace.kernel import errors

KINDS = [getattr(errors, name) for name in errors.__all__]


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_crosses_processes_whole(kind: type[errors.HeadraceError]) -> None:
    error = kind("it broke", where="headrace.toml: log", remedy="Mend it.")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert (again.what, again.where, again.remedy) == ("it broke", "headrace.toml: log", "Mend it.")
    assert str(again) == "headrace.toml: log: it broke\n  Mend it."


def test_exit_codes_distinguish_a_wrong_call_from_a_failure() -> None:
    codes = {kind.__name__: kind.exit_code for kind in KINDS}
    assert {name for name, code in codes.items() if code == 2} == {"ProjectError", "CallError"}
    assert set(codes.values()) == {1, 2}
    assert {kind.__name__ for kind in KINDS if kind.retryable} == {"Unavailable", "NotAppended", "Conflict"}
