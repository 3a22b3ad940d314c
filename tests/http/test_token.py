"""Tokens: several of them, from files, that change while the server runs."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import httpx
import pytest

from headrace.http.asgi import Receive, Scope, Send
from headrace.http.middleware import GuardMiddleware
from headrace.http.responses import send_body
from headrace.http.serve import serve
from headrace.http.token import AccessTokens, client_headers, read_token_file
from headrace.kernel import secrets
from headrace.kernel.errors import ProjectError
from headrace.kernel.secrets import clean_text

OLD, NEW, OTHER = ("old-token-of-some-length", "new-token-of-some-length", "a-token-of-the-environment")


@pytest.fixture(autouse=True)
def no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HEADRACE_TOKEN", raising=False)
    monkeypatch.setattr(secrets, "_read", set())


class Clock:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def bearer(token: str) -> bytes:
    return f"Bearer {token}".encode()


def replace(path: Path, content: bytes) -> None:
    path.with_suffix(".new").write_bytes(content)
    path.with_suffix(".new").rename(path)


def test_each_token_of_each_file_and_of_the_environment_is_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_TOKEN", OTHER)
    (tmp_path / "a").write_bytes(f"{OLD}\r\n\n  {NEW}  \n".encode())
    (tmp_path / "b").write_bytes(b"the-token-of-another-file")

    tokens = AccessTokens("0.0.0.0", [tmp_path / "a", tmp_path / "b"])

    for token in (OLD, NEW, OTHER, "the-token-of-another-file"):
        assert tokens.accept(bearer(token)), token
        assert tokens.accept(b"bEARER  " + token.encode() + b" "), token
        assert not tokens.accept(b"Basic " + token.encode()), token
        assert not tokens.accept(token.encode()), token
        assert not tokens.accept(bearer(token[:-1])), token
    for nothing in (None, b"", b"Bearer", b"Bearer ", bearer(f"{OLD}\n{NEW}"), b"Bearer \xff\x00"):
        assert not tokens.accept(nothing), nothing


def test_a_token_is_replaced_without_a_restart(tmp_path: Path) -> None:
    clock, path = Clock(), tmp_path / "tokens"
    path.write_text(OLD)
    tokens = AccessTokens("0.0.0.0", [path], clock)

    replace(path, f"{OLD}\n{NEW}\n".encode())
    clock.seconds = 1.5
    assert tokens.accept(bearer(OLD))
    assert tokens.accept(bearer(NEW))
    replace(path, NEW.encode())
    clock.seconds = 3.0
    assert not tokens.accept(bearer(OLD))
    assert tokens.accept(bearer(NEW))


INVALID = {
    "empty": (b"", "lacks a token"),
    "blank": (b" \n\r\n\t\n", "lacks a token"),
    "short": (b"short", "line 1"),
    "cut": (NEW.encode() + b"\nnew-tok", "line 2"),
    "a space": (b"two words of some length", "line 1"),
    "binary": (os.urandom(8) + b"\xff\x00" * 20, "line 1"),
    "utf-16": (NEW.encode("utf-16"), "line 1"),
    "huge": (b"x" * 70_000, "larger than"),
}


@pytest.mark.parametrize("name", INVALID)
def test_a_file_that_becomes_invalid_leaves_its_last_tokens_in_force(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content, message = INVALID[name]
    clock, path, other = Clock(), tmp_path / "tokens", tmp_path / "other"
    path.write_text(OLD)
    other.write_text(OLD)
    tokens = AccessTokens("0.0.0.0", [path, other], clock)
    replace(path, content)
    replace(other, OTHER.encode())

    with caplog.at_level(logging.WARNING):
        for clock.seconds in (2.0, 4.0, 6.0):
            assert tokens.accept(bearer(OLD))
            assert tokens.accept(bearer(OTHER)), "the other file is read again"
    levels = [record.levelname for record in caplog.records if record.name == "headrace.http"]
    assert levels == ["ERROR"], "it is said once"
    assert message in caplog.text
    assert "its last tokens stay in force" in caplog.text
    assert NEW not in caplog.text
    with pytest.raises(ProjectError, match=message) as caught:
        AccessTokens("0.0.0.0", [path])
    assert caught.value.where == str(path)
    replace(path, NEW.encode())
    clock.seconds = 8.0
    assert tokens.accept(bearer(NEW))
    assert not tokens.accept(bearer(OLD))
    assert "its tokens are read again" in caplog.text


def test_a_file_that_is_gone_or_no_file_leaves_its_last_tokens_in_force(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock, path = Clock(), tmp_path / "tokens"
    path.write_text(OLD)
    tokens = AccessTokens("0.0.0.0", [path], clock)

    path.unlink()
    clock.seconds = 2.0
    assert tokens.accept(bearer(OLD))
    assert "cannot be read: No such file or directory" in caplog.text
    path.mkdir()
    clock.seconds = 4.0
    assert tokens.accept(bearer(OLD))
    assert "is not a regular file" in caplog.text
    path.rmdir()
    os.mkfifo(path)  # nobody writes to it
    clock.seconds = 6.0
    assert tokens.accept(bearer(OLD))
    with pytest.raises(ProjectError, match="not a regular file"):
        read_token_file(path)


def test_a_token_file_makes_loopback_ask_for_a_token_too(tmp_path: Path) -> None:
    assert not AccessTokens("127.0.0.1").are_required
    (tmp_path / "tokens").write_text(OLD)

    assert AccessTokens("127.0.0.1", [tmp_path / "tokens"]).are_required
    assert client_headers([tmp_path / "tokens"]) == {"Authorization": f"Bearer {OLD}"}
    assert client_headers() == {}


def test_a_token_from_a_file_is_masked_in_messages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_TOKEN_FILES", "/etc/tokens/of-the-shop")
    (tmp_path / "tokens").write_text(OLD)
    AccessTokens("0.0.0.0", [tmp_path / "tokens"])

    assert clean_text(f"GET /{OLD} failed; see /etc/tokens/of-the-shop") == (
        "GET /*** failed; see /etc/tokens/of-the-shop"
    )


def test_a_server_answers_hostile_authorizations_with_401_and_never_shows_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await send_body(send, 200, b"{}")

    (tmp_path / "tokens").write_text(OLD)
    app = GuardMiddleware(answer, "0.0.0.0", token_files=[tmp_path / "tokens"])
    with serve(app, "127.0.0.1", 0) as server, httpx.Client(base_url=server.url) as client:
        assert client.get("/", headers={"Authorization": f"Bearer {OLD}"}).status_code == 200
        for wrong in (f"Bearer {'x' * 60_000}", f"Bearer {OLD} {OLD}", f"Bearer {OLD}\t{NEW}", f"Token {OLD}"):
            refused = client.get("/", headers={"Authorization": wrong})
            assert refused.status_code == 401
            assert refused.headers["WWW-Authenticate"] == "Bearer"
            assert OLD not in refused.text
            assert "xxxx" not in refused.text
        assert client.get("/", headers={"Authorization": f"Bearer {'x' * 300_000}"}).status_code == 431
        # Of two Authorization headers the first counts, as for every other header.
        twice = client.get("/", headers=[("Authorization", "Bearer no"), ("Authorization", f"Bearer {OLD}")])
        assert twice.status_code == 401
        assert client.get("/healthz").status_code == 200
    assert OLD not in caplog.text
