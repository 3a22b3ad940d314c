"""Doors: where alerts go out: a webhook, a Slack-shaped one, e-mail.

An address may carry a secret in its path, so no error, log or status shows one: a door is known by its
kind, its host and a few digits of the address's digest. Nor is it sent by a client that logs addresses.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import smtplib
import ssl
import urllib.error
import urllib.request
from collections.abc import Sequence
from email.message import EmailMessage
from http.client import HTTPException
from typing import Any, Protocol
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

import msgspec

from headrace.alerts.record import Alert
from headrace.config.settings import Settings
from headrace.kernel.digest import short_digest
from headrace.kernel.errors import ProjectError, Refused, Unavailable
from headrace.kernel.secrets import clean_text

__all__ = ["Door", "doors"]

_SECONDS = 10.0
_TRY_AGAIN = frozenset({401, 403, 404, 407, 408, 425, 429})  # the door's state, not the alert, is wrong
_MAIL = re.compile(r"[^\s@,<>]+@[^\s@,<>]+")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_encode = msgspec.json.Encoder().encode


class Door(Protocol):
    """Takes alerts.

    Attributes:
        name: what it is called wherever it is named.
        id: what tells it from every other; no secret.
    """

    name: str
    id: str

    def deliver(self, alert: Alert) -> None:
        """Hands over one change of an alert.

        Raises:
            Unavailable: not now; it is tried again.
            Refused: the door will never take this one.
        """
        ...


def doors(settings: Settings) -> list[Door]:
    """The doors that the profile names.

    Raises:
        ProjectError: an address is none; it is named by its place, not quoted.
    """
    found: list[Door] = []
    for at, address in enumerate(settings.alerts.channels):
        where = f"headrace.toml: profile.{settings.profile_name}.alerts[{at}]"
        named = address.startswith("env:")
        found.append(_Named(address, settings, where) if named else _door(address, settings, where))
    return found


def _door(address: str, settings: Settings, where: str) -> Door:
    scheme, separator, rest = address.partition(":")
    if scheme == "mailto" and separator:
        to = [unquote(one).strip() for one in rest.split(",")]
        if all(_MAIL.fullmatch(one) for one in to):
            return _Mail(to, settings, short_digest(address))
    kind, _, url = address.rpartition("+")
    try:
        parts = urlsplit(url)
        right = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        right = False
    if right and kind in ("", "slack") and url.isprintable() and " " not in url:
        return _Hook(url, parts, settings, short_digest(address), slack=kind == "slack")
    raise ProjectError(
        "this is no address of a door for alerts (it is not shown: it may hold a secret)",
        where=where,
        remedy="Write https://host/path, slack+https://hooks.slack.com/..., mailto:ops@example.com, or"
        " env:NAME for one of these in an environment variable.",
    )


class _Named:
    """A door whose address is in the environment: `env:NAME`."""

    def __init__(self, address: str, settings: Settings, where: str) -> None:
        self.name = address
        self.id = short_digest(address)
        self._variable = address.removeprefix("env:")
        self._settings = settings
        self._where = where

    def deliver(self, alert: Alert) -> None:
        address = os.environ.get(self._variable)
        if not address:
            raise Unavailable(
                f"the environment has no variable {self._variable}",
                where=self._where,
                remedy="Set it, and start again.",
            )
        _door(address, self._settings, f"environment: {self._variable}").deliver(alert)


class _Hook:
    """A webhook: POST of JSON; signed where the environment has HEADRACE_ALERTS_SECRET.

    The signature is the hex HMAC-SHA-256 of the body: `X-Headrace-Signature-256: sha256=...`.
    """

    def __init__(self, url: str, parts: SplitResult, settings: Settings, id: str, *, slack: bool) -> None:
        self.name = f"{'slack' if slack else 'webhook'} {parts.hostname}#{id[:6]}"
        self.id = id
        self._url = url
        self._settings = settings
        self._slack = slack
        self._opener = urllib.request.build_opener(_NoRedirect)

    def deliver(self, alert: Alert) -> None:
        body = _encode(_slack(alert, self._settings) if self._slack else _plain(alert, self._settings))
        headers = {"Content-Type": "application/json", "Idempotency-Key": alert.id, "User-Agent": "headrace"}
        secret = os.environ.get("HEADRACE_ALERTS_SECRET")
        if secret:
            signature = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
            headers["X-Headrace-Signature-256"] = f"sha256={signature}"
        request = urllib.request.Request(self._url, body, headers, method="POST")  # noqa: S310 - http(s), checked
        try:
            with self._opener.open(request, timeout=_SECONDS):
                return
        except urllib.error.HTTPError as error:
            code = error.code
            error.close()
        except (OSError, ValueError, HTTPException) as error:
            # Not the error's own text: it may quote the address.
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            said = getattr(reason, "strerror", None) or type(reason).__name__
            raise Unavailable(f"it cannot be reached: {said}", where=self.name) from None
        if 400 <= code < 500 and code not in _TRY_AGAIN:
            raise Refused(f"it answered {code}", where=self.name)
        raise Unavailable(f"it answered {code}", where=self.name)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirected POST would arrive as a GET: it counts as not delivered."""

    def redirect_request(self, *_: Any) -> None:
        return None


class _Mail:
    """E-mail by the server of HEADRACE_SMTP_URL: `smtps://user:password@host:465`, `smtp://host:25`.

    With `smtp` TLS is used where the server offers it; without it a password goes to no other machine.
    """

    def __init__(self, to: Sequence[str], settings: Settings, id: str) -> None:
        self.name = f"mail {', '.join(to)}"
        self.id = id
        self._to = list(to)
        self._settings = settings

    def deliver(self, alert: Alert) -> None:
        url = os.environ.get("HEADRACE_SMTP_URL", "")
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            host = None
        if host is None or parts.scheme not in ("smtp", "smtps"):
            raise Unavailable(
                "the environment's HEADRACE_SMTP_URL names no mail server",
                where=self.name,
                remedy="Set it to smtps://user:password@host:465 or smtp://host:25.",
            )
        user, password = unquote(parts.username or ""), unquote(parts.password or "")
        sender = parse_qs(parts.query).get("from", [user if _MAIL.fullmatch(user) else self._to[0]])[0]
        message = _mail(alert, self._settings, sender, self._to)
        try:
            with _server(parts.scheme, host, port) as server:
                if user:
                    self._log_in(server, host, user, password)
                server.send_message(message, sender, self._to)
        except smtplib.SMTPDataError as error:
            kind = Refused if error.smtp_code >= 500 else Unavailable
            raise kind(f"the mail server answered {_said(error)}", where=self.name) from None
        except smtplib.SMTPResponseException as error:
            raise Unavailable(f"the mail server answered {_said(error)}", where=self.name) from None
        except smtplib.SMTPRecipientsRefused as error:
            said = "; ".join(f"{code} {_text(text)}" for code, text in error.recipients.values())
            raise Unavailable(f"the mail server takes no recipient: {said}", where=self.name) from None
        except (OSError, smtplib.SMTPException) as error:
            said = getattr(error, "strerror", None) or type(error).__name__
            raise Unavailable(f"the mail server cannot be used: {said}", where=self.name) from None

    def _log_in(self, server: smtplib.SMTP, host: str, user: str, password: str) -> None:
        if not isinstance(server.sock, ssl.SSLSocket) and host not in _LOOPBACK:
            raise Unavailable(
                "the mail server offers no TLS: the password is not sent",
                where=self.name,
                remedy="Name its smtps:// address in HEADRACE_SMTP_URL.",
            )
        server.login(user, password)


def _server(scheme: str, host: str, port: int | None) -> smtplib.SMTP:
    context = ssl.create_default_context()
    if scheme == "smtps":
        return smtplib.SMTP_SSL(host, port or 465, timeout=_SECONDS, context=context)
    server = smtplib.SMTP(host, port or 25, timeout=_SECONDS)
    try:
        server.ehlo()
        if server.has_extn("starttls"):
            server.starttls(context=context)
    except BaseException:
        server.close()
        raise
    return server


def _said(error: smtplib.SMTPResponseException) -> str:
    return f"{error.smtp_code} {_text(error.smtp_error)}"


def _text(text: bytes | str) -> str:
    text = text.decode(errors="replace") if isinstance(text, bytes) else text
    return clean_text("".join(c if c.isprintable() else " " for c in text)[:200])


def _plain(alert: Alert, settings: Settings) -> dict[str, Any]:
    return {
        "project": settings.project,
        "profile": settings.profile_name,
        "alert": msgspec.to_builtins(alert),
        "look": _look(alert),
    }


def _slack(alert: Alert, settings: Settings) -> dict[str, Any]:
    sign = {"raised": ":rotating_light:", "changed": ":warning:", "resolved": ":white_check_mark:"}[alert.state]
    head = _escaped(_head(alert, settings))
    section = {"type": "mrkdwn", "text": f"{sign} *{head}*\n{_escaped(alert.why)}\n`{_escaped(_look(alert))}`"}
    return {"text": head, "blocks": [{"type": "section", "text": section}]}


def _escaped(text: str) -> str:
    """Slack's own three: no text can become a link or a mention."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _mail(alert: Alert, settings: Settings, sender: str, to: Sequence[str]) -> EmailMessage:
    message = EmailMessage()
    message["Subject"] = _head(alert, settings)
    message["From"] = sender
    message["To"] = ", ".join(to)
    message["Message-ID"] = f"<{alert.id}@headrace>"  # the same again where it is delivered again
    message["Date"] = alert.at
    message.set_content(f"{alert.why}\n\n{_look(alert)}\n\n{msgspec.json.format(_encode(alert)).decode()}\n")
    return message


def _head(alert: Alert, settings: Settings) -> str:
    what = f"{alert.code} ({alert.field})" if alert.field else alert.code
    state = "" if alert.state == "raised" else f" {alert.state}"
    return f"[{settings.project}/{settings.profile_name}] {alert.severity}{state}: {alert.topic} {what}"


def _look(alert: Alert) -> str:
    field = f" --field {alert.field}" if alert.field else ""
    return f"headrace quarantine show {alert.topic} --code {alert.code}{field}"
