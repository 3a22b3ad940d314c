"""The signing key: from the environment, or made once."""

import stat
from concurrent.futures import ThreadPoolExecutor

import pytest

from headrace.config.settings import Settings
from headrace.registry.signing import VARIABLE, signing_key


def test_the_key_is_made_once_and_readable_by_its_owner_alone(settings: Settings) -> None:
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(lambda _: signing_key(settings), range(32)))
    assert len(keys) == 1
    assert len(keys.pop()) == 64
    path = settings.place("signing.key")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in settings.state.glob("signing*")] == ["signing.key"]


def test_the_environment_has_precedence(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "from the environment")
    assert signing_key(settings) == b"from the environment"
    assert not settings.place("signing.key").exists()
