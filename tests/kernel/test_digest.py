"""Digests: the SHA-256 that everyone computes, whole or its first 32 digits."""

from __future__ import annotations

from pathlib import Path

from headrace.kernel.digest import digest_bytes, digest_file, digest_value, short_digest

ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, appendix B.1


def test_digests_are_sha256(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert digest_bytes(b"abc") == digest_file(tmp_path / "abc") == ABC
    assert short_digest("abc") == short_digest(b"abc") == ABC[:32]


def test_the_order_of_keys_does_not_change_the_digest_of_a_value() -> None:
    assert digest_value({"a": 1, "b": [1, None]}) == digest_value({"b": [1, None], "a": 1})
    assert digest_value({"a": 1}) != digest_value({"a": "1"})
