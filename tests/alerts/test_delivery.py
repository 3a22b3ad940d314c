"""Delivery of alerts to real HTTP and SMTP servers: at least once, and no secret anywhere."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import re
import socketserver
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from email import message_from_bytes, policy
from pathlib import Path

import msgspec
import pytest
from services.kafka import certificates
from tests.servers import Endpoint, Serving
from tests.until import until

from headrace.alerts.channels import channels
from headrace.alerts.delivery import DeliveryLedger, deliver
from headrace.alerts.record import TOPIC, Alert
from headrace.config.settings import Settings
from headrace.flows.project.doctor import _check_channels
from headrace.kernel.errors import ProjectError
from headrace.kernel.ids import new_id
from headrace.kernel.ports import find_free_port
from headrace.kernel.time import now
from headrace.log import Log

SECRET = "T0SECRET/B0/x1y2z3"


class Mails(Serving):
    """A mail server: as much of SMTP as a client needs, with AUTH PLAIN.

    Args:
        tls: `smtps` from the first byte on, `starttls` once asked; None: never.
        identity: PEM file of its key and certificate, for `tls`.
    """

    def __init__(self, tls: str | None = None, identity: Path | None = None) -> None:
        self.got: list[tuple[str, list[str], bytes]] = []
        self.logins: list[bytes] = []
        outer = self
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        if identity is not None:
            context.load_cert_chain(identity)

        class Handler(socketserver.StreamRequestHandler):
            def start_tls(self) -> bool:
                self.request = context.wrap_socket(
                    self.request, server_side=True, do_handshake_on_connect=False
                )
                super().setup()
                with suppress(ssl.SSLError):
                    self.request.do_handshake()
                    return True
                return False  # the client does not trust us

            def finish(self) -> None:
                super().finish()
                self.request.close()

            def handle(self) -> None:
                sender, to = "", list[str]()
                if tls == "smtps" and not self.start_tls():
                    return
                self.say("220 here")
                while line := self.rfile.readline().strip():
                    verb = line[:4].upper()
                    if verb == b"EHLO":
                        open_ = tls == "starttls" and not isinstance(self.request, ssl.SSLSocket)
                        self.say("250-here", "250 STARTTLS" if open_ else "250 AUTH PLAIN")
                    elif verb == b"STAR":
                        self.say("220 go on")
                        if not self.start_tls():
                            return
                    elif verb == b"AUTH":
                        outer.logins.append(base64.b64decode(line.split()[2]))
                        self.say("235 in")
                    elif verb == b"MAIL":
                        sender = re.findall(r"<(.*?)>", line.decode())[0]
                        self.say("250 yes")
                    elif verb == b"RCPT":
                        to += re.findall(r"<(.*?)>", line.decode())
                        self.say("250 yes")
                    elif verb == b"DATA":
                        self.say("354 go on")
                        text = b""
                        while (part := self.rfile.readline()) != b".\r\n":
                            text += part
                        outer.got.append((sender, to, text))
                        self.say("250 taken")
                    else:
                        self.say("221 bye")
                        return

            def say(self, *lines: str) -> None:
                self.wfile.write("".join(f"{line}\r\n" for line in lines).encode())

        super().__init__(socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler))


def ids(hooks: Endpoint) -> list[str]:
    return [post.headers["Idempotency-Key"] for post in hooks.got]


@pytest.fixture
def hooks() -> Iterator[Endpoint]:
    endpoint = Endpoint()
    yield endpoint
    endpoint.close()


@pytest.fixture
def mails() -> Iterator[Mails]:
    server = Mails()
    yield server
    server.close()


def alert(number: int, state: str = "raised", **changed: object) -> Alert:
    template = Alert(
        id=new_id(),
        alert="a",
        number=number,
        at=now(),
        source="refusals",
        subject="clicks",
        reason="out_of_range (price)",
        state="raised",
        severity="warning",
        why="5.00% of 100 events <in> 5m refused",
        look="headrace quarantine show clicks --code out_of_range --field price",
        facts={"refused": 5, "events": 100, "share": 0.05, "baseline": None},
    )
    return msgspec.structs.replace(template, state=state, **changed)  # type: ignore[arg-type]


def append_alerts(log: Log, *alerts: Alert) -> None:
    log.create(TOPIC)
    log.append(TOPIC, [msgspec.json.encode(alert) for alert in alerts])


def with_channels(settings: Settings, *addresses: str) -> Settings:
    return settings.with_values(alerts=addresses)


@contextmanager
def delivering(settings: Settings, log: Log) -> Iterator[Path]:
    ledger = settings.make_state() / "alerts.json"
    stop = threading.Event()
    thread = threading.Thread(
        target=deliver, args=(channels(settings), log, ledger, stop), kwargs={"idle": 0.02}
    )
    thread.start()
    try:
        yield ledger
    finally:
        stop.set()
        thread.join(60)


def test_webhook_gets_signed_json_and_slack_gets_blocks(
    settings: Settings, events_log: Log, hooks: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_ALERTS_SECRET", "a shared secret")
    monkeypatch.setenv("OPS_HOOK", f"{hooks.url}/env/{SECRET}")
    raised = alert(1)
    append_alerts(events_log, raised)
    three = with_channels(settings, f"{hooks.url}/plain", f"slack+{hooks.url}/slack", "env:OPS_HOOK")
    with delivering(three, events_log):
        until(lambda: len(hooks.got) == 3)
    got = {path.split("/")[1]: (headers, body) for path, headers, body, _ in hooks.got}
    headers, body = got["plain"]
    signature = hmac.new(b"a shared secret", body, hashlib.sha256).hexdigest()
    assert headers["X-Headrace-Signature-256"] == f"sha256={signature}"
    assert headers["Idempotency-Key"] == raised.id
    sent = json.loads(body)
    assert (sent["project"], sent["profile"]) == ("scratch", "local")
    assert msgspec.convert(sent["alert"], Alert) == raised
    assert sent["alert"]["look"] == "headrace quarantine show clicks --code out_of_range --field price"
    slack = json.loads(got["slack"][1])
    assert slack["text"] == "[scratch/local] warning: clicks out_of_range (price)"
    assert "&lt;in&gt; 5m" in slack["blocks"][0]["text"]["text"]
    assert json.loads(got["env"][1]) == sent


def test_mail_is_sent_with_a_login(
    settings: Settings, events_log: Log, mails: Mails, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_SMTP_URL", f"smtp://joe:p%40ss@127.0.0.1:{mails.port}?from=alerts@example.com")
    raised = alert(1)
    append_alerts(events_log, raised)
    with delivering(with_channels(settings, "mailto:ops@example.com,eve@example.com"), events_log):
        until(lambda: bool(mails.got))
    ((sender, to, text),) = mails.got
    assert (sender, to) == ("alerts@example.com", ["ops@example.com", "eve@example.com"])
    assert mails.logins == [b"\0joe\0p@ss"]
    message = message_from_bytes(text, policy=policy.default)
    assert message["Subject"] == "[scratch/local] warning: clicks out_of_range (price)"
    assert message["Message-ID"] == f"<{raised.id}@headrace>"
    assert raised.why in message.get_content()


@pytest.mark.parametrize("tls", ["smtps", "starttls"])
def test_mail_goes_by_tls_to_a_trusted_server_alone(
    settings: Settings, events_log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tls: str
) -> None:
    authority, identity = certificates(tmp_path)
    mails = Mails(tls, identity)
    scheme = "smtps" if tls == "smtps" else "smtp"
    monkeypatch.setenv("HEADRACE_SMTP_URL", f"{scheme}://joe:secret@127.0.0.1:{mails.port}?from=a@example.com")
    append_alerts(events_log, alert(1))
    mailing = with_channels(settings, "mailto:ops@example.com")
    try:
        with delivering(mailing, events_log) as ledger:
            until(
                lambda: (
                    "certificate"
                    in (DeliveryLedger(ledger).state_of(channels(mailing)[0]).failure or "").lower()
                )
            )
        assert (mails.logins, mails.got) == ([], [])
        monkeypatch.setenv("SSL_CERT_FILE", str(authority))
        with delivering(mailing, events_log):
            until(lambda: bool(mails.got))
    finally:
        mails.close()
    assert mails.logins == [b"\0joe\0secret"]


def test_channel_that_is_away_is_tried_again_and_a_refused_change_is_counted(
    settings: Settings, events_log: Log, hooks: Endpoint
) -> None:
    hooks.answers = [503, 302, 429, 422]  # three times not now, then never this one
    alerts = [alert(1), alert(2, "changed"), alert(3, "resolved")]
    profile = with_channels(settings, f"{hooks.url}/{SECRET}")
    with delivering(profile, events_log) as ledger:
        append_alerts(events_log, alerts[0])
        until(lambda: len(hooks.got) == 4)
        append_alerts(events_log, *alerts[1:])
        until(lambda: len(hooks.got) == 6)
        (channel,) = channels(profile)
        until(lambda: DeliveryLedger(ledger).state_of(channel).delivered == 2)
    assert ids(hooks) == [alerts[0].id] * 4 + [alerts[1].id, alerts[2].id]
    assert {post.path for post in hooks.got} == {f"/{SECRET}"}
    state = DeliveryLedger(ledger).state_of(channel)
    assert (state.delivered, state.refused, state.failure) == (2, 1, None)


def test_new_channel_begins_with_open_alerts_and_the_next_process_continues(
    settings: Settings, events_log: Log, hooks: Endpoint
) -> None:
    resolved = [alert(1, reason="out_of_range"), alert(2, "resolved", reason="out_of_range")]
    open_ = [alert(1), alert(2, "changed", severity="critical")]
    append_alerts(events_log, *resolved, *open_)
    profile = with_channels(settings, hooks.url)
    with delivering(profile, events_log):
        until(lambda: len(hooks.got) == 1)
    later = [alert(3, "resolved"), alert(3, "resolved")]  # the second has the number of the first
    append_alerts(events_log, *later)
    with delivering(profile, events_log):
        until(lambda: len(hooks.got) == 2)
    append_alerts(events_log, alert(4))
    with delivering(profile, events_log):
        until(lambda: len(hooks.got) == 3)
    assert ids(hooks)[:2] == [open_[1].id, later[0].id]


def test_no_secret_of_an_address_is_shown(
    settings: Settings, events_log: Log, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    closed = f"http://127.0.0.1:{find_free_port()}/{SECRET}"
    monkeypatch.setenv("OPS_HOOK", closed)
    monkeypatch.setenv("HEADRACE_SMTP_URL", f"smtp://joe:{SECRET[:8]}@127.0.0.1:{find_free_port()}")
    append_alerts(events_log, alert(1))
    profile = with_channels(
        settings,
        closed,
        f"slack+{closed}",
        "env:OPS_HOOK",
        "mailto:ops@example.com",
        f"https://no.invalid/{SECRET}",
    )
    with delivering(profile, events_log) as ledger:
        until(lambda: all(DeliveryLedger(ledger).state_of(c).failure for c in channels(profile)))
        findings = list(_check_channels(profile))
    assert len(findings) == 5
    assert not any(finding.fine for finding in findings)
    assert "Connection refused" in findings[0].detail
    for text in (caplog.text, ledger.read_text(), repr(findings), repr(DeliveryLedger(ledger))):
        assert SECRET[:8] not in text
        assert SECRET not in text


@pytest.mark.parametrize(
    "address",
    [
        f"hooks.example/{SECRET}",
        f"ftp://hooks.example/{SECRET}",
        f"slack+mailto:{SECRET}",
        f"https:///{SECRET}",
        f"https://hooks.example:x/{SECRET}",
        "mailto:",
        "mailto:no one",
        f"https://h.example/ {SECRET}\n",
    ],
)
def test_invalid_address_is_named_by_its_place(settings: Settings, address: str) -> None:
    with pytest.raises(ProjectError, match=r"profile\.local\.alerts\[1\]") as raised:
        channels(with_channels(settings, "env:FIRST", address))
    assert SECRET not in str(raised.value)
