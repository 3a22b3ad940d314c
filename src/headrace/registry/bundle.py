"""Seals and verifies a version's bundle: a folder of files with a manifest, a digest and a signature.

`MANIFEST.json` lists the SHA-256 of every other file, the digest over that list, and an HMAC of the
digest. A whole bundle is verified before any file of it is loaded.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import stat
from pathlib import Path

import msgspec

from headrace.kernel.digest import digest_bytes, digest_file
from headrace.kernel.errors import CallError, Refused
from headrace.kernel.files import write_file

__all__ = ["MANIFEST", "Manifest", "is_sealed", "seal", "verify"]

MANIFEST = "MANIFEST.json"
_UNTRUSTED = "Restore the bundle from where it was made; none of it has been loaded."


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of `MANIFEST.json`.

    Attributes:
        files: path within the bundle, with `/` → SHA-256 of the file, hexadecimal.
        digest: SHA-256 over the files' lines `<sha256>  <path>`, sorted by path.
        hmac: HMAC-SHA-256 of the digest; empty if the bundle is unsigned.
        format: the version of the manifest's format.
    """

    files: dict[str, str]
    digest: str
    hmac: str = ""
    format: int = 1


def seal(folder: Path, key: bytes | None) -> str:
    """Writes the manifest of all files in the folder and returns the digest.

    Sealing the same files with the same key gives the same manifest. Without a key the bundle is unsigned.

    Raises:
        Refused: the folder holds something that is not a plain file.
    """
    for abandoned in folder.glob(
        f".{MANIFEST}.*"
    ):  # left by a process that was killed while it wrote the manifest
        abandoned.unlink()
    files = {name: digest_file(folder / name) for name in _names(folder)}
    digest = _digest_of(files)
    manifest = Manifest(files, digest, _sign(digest, key) if key else "")
    text = msgspec.json.format(msgspec.json.encode(manifest, order="sorted"), indent=1)
    write_file(folder / MANIFEST, text)
    return digest


def is_sealed(folder: Path) -> bool:
    """Whether the folder holds a sealed bundle."""
    return (folder / MANIFEST).is_file()


def verify(folder: Path, key: bytes | None, *, trusted: bool = False) -> Manifest:
    """Checks every file of the bundle against its manifest, and the manifest against the key.

    Args:
        folder: the bundle.
        key: the signing key.
        trusted: accepts a bundle that is unsigned or signed with another key. Its files must still match the
            manifest.

    Raises:
        CallError: the folder does not hold a sealed bundle.
        Refused: a file differs, is missing, was added or is not a plain file (the error names it), or the
            signature is missing or made with another key.
    """
    path = folder / MANIFEST
    if not path.is_file() or path.is_symlink():
        raise CallError("the folder does not hold a sealed bundle", where=str(folder))
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except msgspec.DecodeError as error:
        raise Refused(f"the manifest cannot be read: {error}", where=str(path), remedy=_UNTRUSTED) from error
    _check_files(folder, manifest)
    if not hmac.compare_digest(manifest.digest, _digest_of(manifest.files)):
        raise Refused(
            "the manifest's digest does not match its list of files", where=str(path), remedy=_UNTRUSTED
        )
    is_signed = key is not None and hmac.compare_digest(manifest.hmac, _sign(manifest.digest, key))
    if not is_signed and not trusted:
        raise Refused(
            "the bundle is signed with another key" if manifest.hmac else "the bundle is not signed",
            where=str(path),
            remedy="Set HEADRACE_SIGNING_KEY to the key it was made with, or name the version in the "
            'profile: trust = ["MODEL@VERSION"].',
        )
    return manifest


def _check_files(folder: Path, manifest: Manifest) -> None:
    present = _names(folder)
    # Only files that the folder lists are opened, so that a manifest cannot reach outside it by ../ or an
    # absolute path.
    for name in sorted(set(manifest.files) - set(present)):
        raise Refused(f"the bundle's file {name!r} is missing", where=str(folder), remedy=_UNTRUSTED)
    for name in present:
        if name not in manifest.files:
            raise Refused(f"the file {name!r} is not in the manifest", where=str(folder), remedy=_UNTRUSTED)
        if not hmac.compare_digest(digest_file(folder / name), manifest.files[name]):
            raise Refused(f"the bundle's file {name!r} was changed", where=str(folder), remedy=_UNTRUSTED)


def _names(folder: Path) -> list[str]:
    """The paths of all files in the folder but the manifest, sorted. Raises Refused for a link or a device."""
    names = []
    for parent, folders, files in os.walk(folder, followlinks=False):
        for name in (*folders, *files):
            path = Path(parent, name)
            mode = path.lstat().st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise Refused(
                    f"the bundle's {path.relative_to(folder).as_posix()!r} is a link or a device",
                    where=str(folder),
                    remedy=_UNTRUSTED,
                )
        names += [Path(parent, name).relative_to(folder).as_posix() for name in files]
    return sorted(set(names) - {MANIFEST})


def _digest_of(files: dict[str, str]) -> str:
    lines = "".join(f"{files[name]}  {name}\n" for name in sorted(files))
    return digest_bytes(lines.encode())


def _sign(digest: str, key: bytes) -> str:
    return hmac.new(key, f"headrace bundle {digest}".encode(), hashlib.sha256).hexdigest()
