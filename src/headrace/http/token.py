"""Access control: the bearer tokens, and the Host headers that name this machine."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import logging
import os
import stat
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from headrace.kernel.errors import ProjectError
from headrace.kernel.secrets import mask_secrets

__all__ = [
    "TOKEN",
    "AccessTokens",
    "check_tokens",
    "client_headers",
    "is_local_host",
    "is_loopback",
    "read_token_file",
]

_log = logging.getLogger("headrace.http")
TOKEN = "HEADRACE_TOKEN"  # noqa: S105 - the variable's name
_MIN_LENGTH = 16
_MAX_FILE = 64 * 1024  # bytes
_INTERVAL = 1.0  # seconds between two reads of the files
_REMEDY = "openssl rand -hex 32 prints one."


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect to this address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class AccessTokens:
    """The bearer tokens that a server accepts: HEADRACE_TOKEN, and those of files.

    The files are read again every second while requests arrive. If one cannot be read then, or is not valid,
    its last tokens stay in force, and the log says so.

    Args:
        host: the address that the server listens on.
        files: files with one token a line.
        clock: seconds, monotonic.

    Raises:
        ProjectError: a file cannot be read or has an invalid token, HEADRACE_TOKEN is invalid, or the address
            is not loopback and there is no token.
    """

    def __init__(
        self, host: str, files: Sequence[Path] = (), clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._of_environment = _read_environment()
        self._of_files = {path: read_token_file(path) for path in files}
        self._problems: dict[Path, str] = {}
        if not (self._of_environment or files or is_loopback(host)):
            raise ProjectError(
                f"other machines can connect to {host}, and the token is not set",
                where=TOKEN,
                remedy=f"Set {TOKEN} in the environment (openssl rand -hex 32 prints one), or token_files in"
                " headrace.toml, or host = '127.0.0.1'.",
            )
        self._update()

    @property
    def are_required(self) -> bool:
        """Whether a request needs a token."""
        return bool(self._of_environment or self._of_files)

    def accept(self, authorization: bytes | None) -> bool:
        """Whether an Authorization header has one of the tokens.

        The time that this takes does not depend on the token.
        """
        self._poll()
        scheme, _, credentials = (authorization or b"").partition(b" ")
        digest = hashlib.sha256(credentials.strip()).digest()
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        return scheme.lower() == b"bearer" and any(matches)

    def sessions(self, make_session: Callable[[str], str]) -> list[str]:
        """A value computed from each of the tokens."""
        self._poll()
        return [make_session(token) for token in self._tokens]

    def _poll(self) -> None:
        if not self._of_files or self._clock() < self._due:
            return
        for path in self._of_files:
            try:
                self._of_files[path] = read_token_file(path)
            except ProjectError as error:
                if self._problems.get(path) != error.what:
                    self._problems[path] = error.what
                    _log.error("%s: %s; its last tokens stay in force", path, error.what)
            else:
                if self._problems.pop(path, None) is not None:
                    _log.warning("%s: its tokens are read again", path)
        self._update()

    def _update(self) -> None:
        self._due = self._clock() + _INTERVAL
        self._tokens = [
            *self._of_environment,
            *(token for tokens in self._of_files.values() for token in tokens),
        ]
        self._digests = [hashlib.sha256(token.encode()).digest() for token in self._tokens]


def check_tokens(host: str, files: Sequence[Path] = ()) -> None:
    """Checks that a server on this address can start. Raises ProjectError as AccessTokens does."""
    AccessTokens(host, files)


def client_headers(files: Sequence[Path] = ()) -> dict[str, str]:
    """The headers of a request to the project's own servers: HEADRACE_TOKEN, else the first token of the files.

    Raises:
        ProjectError: a token is not valid, or a file cannot be read.
    """
    tokens = _read_environment() or [token for path in files[:1] for token in read_token_file(path)]
    return {"Authorization": f"Bearer {tokens[0]}"} if tokens else {}


def read_token_file(path: Path) -> list[str]:
    """The tokens of a file, one a line; empty lines do not count. They are masked in this process's messages.

    Raises:
        ProjectError: the file cannot be read, is not a regular file, is larger than 64 KiB, lacks tokens, or a
            line is not a valid token (the message has its number and not its text).
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe must not block the server
    except OSError as error:
        raise _file_error(path, f"the token file cannot be read: {error.strerror}") from error
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise _file_error(path, "the token file is not a regular file")
        content = os.read(file, _MAX_FILE + 1)
    except OSError as error:
        raise _file_error(path, f"the token file cannot be read: {error.strerror}") from error
    finally:
        os.close(file)
    if len(content) > _MAX_FILE:
        raise _file_error(path, f"the token file is larger than {_MAX_FILE:,} bytes")
    lines = [line.strip(b" \t\r") for line in content.split(b"\n")]
    tokens = []
    for number, line in enumerate(lines, start=1):
        if line and not _is_valid(token := line.decode("latin-1")):
            raise _file_error(
                path,
                f"line {number}: a token must be at least {_MIN_LENGTH} printable ASCII characters"
                " without spaces",
            )
        if line:
            tokens.append(token)
    if not tokens:
        raise _file_error(path, "the token file lacks a token")
    mask_secrets(tokens)
    return tokens


def _file_error(path: Path, what: str) -> ProjectError:
    return ProjectError(
        what,
        where=str(path),
        remedy=f"A token file has one token a line. {_REMEDY} Replace it as a whole (mv).",
    )


def _read_environment() -> list[str]:
    token = os.environ.get(TOKEN)
    if not token:
        return []
    if not _is_valid(token):
        raise ProjectError(
            f"the token must be at least {_MIN_LENGTH} printable ASCII characters without spaces",
            where=TOKEN,
            remedy=_REMEDY,
        )
    return [token]


def _is_valid(token: str) -> bool:
    return len(token) >= _MIN_LENGTH and token.isascii() and token.isprintable() and " " not in token


def is_local_host(host_header: bytes | None) -> bool:
    """Whether a Host header names this machine.

    After DNS rebinding, the requests of a foreign web page reach this machine, but under the page's host name.
    """
    text = (host_header or b"").decode("latin-1").lower()
    name = text.rpartition("]")[0] + "]" if text.startswith("[") else text.partition(":")[0]
    return name in ("localhost", "127.0.0.1", "[::1]")
