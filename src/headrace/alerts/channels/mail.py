"""E-mail: `mailto:address,...`, sent by the server that HEADRACE_SMTP_URL names."""

from __future__ import annotations

import os
import re
import smtplib
import ssl
from collections.abc import Sequence
from email.message import EmailMessage
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec

from headrace.alerts.channels.port import Channel, describe_error, headline
from headrace.alerts.record import Alert
from headrace.config.settings import Settings
from headrace.kernel.digest import short_digest
from headrace.kernel.errors import Refused, Unavailable
from headrace.kernel.secrets import clean_text

__all__ = ["EXAMPLE", "MailChannel", "open"]

EXAMPLE = "mailto:ops@example.com"
_PREFIX = "mailto:"
_SECONDS = 10.0
_ADDRESS = re.compile(r"[^\s@,<>]+@[^\s@,<>]+")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def open(address: str, settings: Settings) -> Channel | None:  # noqa: A001
    """Opens the channel of a `mailto:` address; None if the address is of another kind, or not valid."""
    if not address.startswith(_PREFIX):
        return None
    recipients = [unquote(recipient).strip() for recipient in address.removeprefix(_PREFIX).split(",")]
    if not all(_ADDRESS.fullmatch(recipient) for recipient in recipients):
        return None
    return MailChannel(address, recipients, settings)


class _MailServer(NamedTuple):
    """The server of HEADRACE_SMTP_URL: `smtps://user:password@host:465?from=sender` or `smtp://host:25`."""

    scheme: str
    host: str
    port: int | None
    user: str
    password: str
    sender: str | None


class MailChannel:
    """Sends a mail to all recipients.

    With `smtp://`, TLS is used if the server offers it; without TLS no password is sent to another machine.
    """

    def __init__(self, address: str, recipients: Sequence[str], settings: Settings) -> None:
        self.name = f"mail {', '.join(recipients)}"
        self.id = short_digest(address)
        self._recipients = list(recipients)
        self._settings = settings

    def deliver(self, alert: Alert) -> None:
        """Delivers one change of an alert (Channel.deliver)."""
        target = self._read_server()
        sender = target.sender or (target.user if _ADDRESS.fullmatch(target.user) else self._recipients[0])
        message = self._message(alert, sender)
        try:
            with _connect(target) as server:
                if target.user:
                    self._log_in(server, target)
                server.send_message(message, sender, self._recipients)
        except smtplib.SMTPDataError as error:
            kind = Refused if error.smtp_code >= 500 else Unavailable
            raise kind(f"the mail server answered {_describe(error)}", where=self.name) from None
        except smtplib.SMTPResponseException as error:
            raise Unavailable(f"the mail server answered {_describe(error)}", where=self.name) from None
        except smtplib.SMTPRecipientsRefused as error:
            answers = "; ".join(f"{code} {_clean(text)}" for code, text in error.recipients.values())
            raise Unavailable(f"the mail server accepts no recipient: {answers}", where=self.name) from None
        except (OSError, smtplib.SMTPException) as error:
            raise Unavailable(
                f"the mail server cannot be used: {describe_error(error)}", where=self.name
            ) from None

    def _read_server(self) -> _MailServer:
        try:
            parts = urlsplit(os.environ.get("HEADRACE_SMTP_URL", ""))
            host, port = parts.hostname, parts.port
        except ValueError:
            host = None
        if host is None or parts.scheme not in ("smtp", "smtps"):
            raise Unavailable(
                "environment variable HEADRACE_SMTP_URL does not name a mail server",
                where=self.name,
                remedy="Set it to smtps://user:password@host:465 or smtp://host:25.",
            )
        sender = parse_qs(parts.query).get("from", [None])[0]
        user, password = unquote(parts.username or ""), unquote(parts.password or "")
        return _MailServer(parts.scheme, host, port, user, password, sender)

    def _log_in(self, server: smtplib.SMTP, target: _MailServer) -> None:
        if not isinstance(server.sock, ssl.SSLSocket) and target.host not in _LOOPBACK:
            raise Unavailable(
                "the mail server offers no TLS: the password is not sent",
                where=self.name,
                remedy="Set HEADRACE_SMTP_URL to an smtps:// address.",
            )
        server.login(target.user, target.password)

    def _message(self, alert: Alert, sender: str) -> EmailMessage:
        message = EmailMessage()
        message["Subject"] = headline(alert, self._settings)
        message["From"] = sender
        message["To"] = ", ".join(self._recipients)
        message["Message-ID"] = f"<{alert.id}@headrace>"  # the same for each delivery of the same change
        message["Date"] = alert.at
        record = msgspec.json.format(msgspec.json.encode(alert)).decode()
        message.set_content(f"{alert.why}\n\n{alert.look}\n\n{record}\n")
        return message


def _connect(target: _MailServer) -> smtplib.SMTP:
    context = ssl.create_default_context()
    if target.scheme == "smtps":
        return smtplib.SMTP_SSL(target.host, target.port or 465, timeout=_SECONDS, context=context)
    server = smtplib.SMTP(target.host, target.port or 25, timeout=_SECONDS)
    try:
        server.ehlo()
        if server.has_extn("starttls"):
            server.starttls(context=context)
    except BaseException:
        server.close()
        raise
    return server


def _describe(error: smtplib.SMTPResponseException) -> str:
    return f"{error.smtp_code} {_clean(error.smtp_error)}"


def _clean(answer: bytes | str) -> str:
    """A server's answer without secrets and control characters, at most 200 characters."""
    text = answer.decode(errors="replace") if isinstance(answer, bytes) else answer
    return clean_text("".join(c if c.isprintable() else " " for c in text)[:200])
