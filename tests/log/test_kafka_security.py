"""A broker that speaks TLS and asks for a password: who has it is let in, and nothing ever tells it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from services.kafka import Broker, broker

from headrace import lineage, log
from headrace.config.settings import Profile, Settings
from headrace.kernel.errors import HeadraceError, ProjectError, Unavailable
from headrace.kernel.run import Dataset, recorder_added, run

PASSWORD = "correct-horse-7431"
WRONG = "battery-staple-8812"


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with broker(Path(tmp_path_factory.mktemp("secured")), password=PASSWORD) as running:
        yield running


@pytest.fixture
def environment(secured: Broker, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name, value in secured.environment.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def told(error: BaseException) -> str:
    """All that an error and those behind it say."""
    text = ""
    while error is not None:
        text += f"{error!r} {error} {error.args}"
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    return text


@pytest.mark.usefixtures("environment")
def test_who_has_the_password_appends_reads_and_shares(secured: Broker, tmp_path: Path) -> None:
    opened = log.open(secured.url)
    opened.create("events")
    assert opened.append("events", [b"a"]) == [(0, 0)]
    assert opened.read("events", {0: 0}, 10).values == [b"a"]
    member = opened.join("events", "workers", tmp_path)
    while member.partitions() != {0}:
        pass
    member.close()
    opened.close()


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("SASL_PASSWORD", WRONG, "Invalid username or password"),
        ("SSL_CA_LOCATION", None, "certificate verify failed"),
    ],
)
def test_who_is_not_let_in_is_told_why_and_nothing_tells_the_password(
    secured: Broker,
    environment: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    name: str,
    value: str | None,
    said: str,
) -> None:
    if value is None:
        environment.delenv(f"HEADRACE_KAFKA_{name}")
    else:
        environment.setenv(f"HEADRACE_KAFKA_{name}", value)
    settings = Settings(tmp_path, "scratch", "kafka", Profile(log=secured.url), tmp_path / "state")
    store = lineage.open(settings)
    with caplog.at_level(logging.DEBUG), recorder_added(store.recorder()):
        opened = log.open(settings.log_url)
        with (
            pytest.raises(Unavailable, match=said) as raised,
            run("ingest events", [Dataset("topic", "events")]),
        ):
            opened.create("events")
        opened.close()
    store.close()
    files = b"".join(path.read_bytes() for path in (tmp_path / "state").rglob("*") if path.is_file())
    assert b"ingest events" in files
    everywhere = told(raised.value) + caplog.text + "".join(capfd.readouterr()) + files.decode(errors="replace")
    for password in (PASSWORD, WRONG):
        assert password not in everywhere


def test_a_setting_that_the_client_does_not_know_is_a_wrong_project(
    environment: pytest.MonkeyPatch, secured: Broker
) -> None:
    environment.setenv("HEADRACE_KAFKA_SASL_PASSWROD", PASSWORD)
    with pytest.raises(ProjectError, match=r"sasl\.passwrod") as raised:
        log.open(secured.url)
    assert PASSWORD not in told(raised.value)


def test_a_password_in_the_address_is_refused_and_not_told() -> None:
    with pytest.raises(ProjectError, match="no password") as raised:
        log.open(f"kafka://headrace:{PASSWORD}@broker:9092")
    assert PASSWORD not in told(raised.value)
    assert isinstance(raised.value, HeadraceError)
