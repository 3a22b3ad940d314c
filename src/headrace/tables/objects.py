"""The objects of a source in S3: lists their versions, and copies them into the state folder.

An object is read from its copy, so that what a table is made from does not change while it is read. The copy is
named by the object's entity tag; an object that has not changed is copied once.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from headrace.config.settings import Settings
from headrace.declare.source import Source
from headrace.kernel.digest import short_digest
from headrace.kernel.errors import ProjectError, Unavailable
from headrace.kernel.extras import require
from headrace.kernel.files import move_into_place
from headrace.kernel.ids import new_id
from headrace.kernel.private import make_private

if TYPE_CHECKING:
    from obstore.store import S3Store

__all__ = ["fetch_objects", "object_versions"]

_CHUNK = 8 << 20


def object_versions(address: str, glob: str, where: str) -> dict[str, str]:
    """Key → entity tag and size, for each object of a source, sorted. Names that begin with `.` or `_` are left
    out, as are those of folders.

    Args:
        address: `s3://BUCKET/PATH` of an object, or of all objects under it.
        glob: a pattern that the objects' names match.
        where: the declaration of the source, for errors.

    Raises:
        ProjectError: there is no object at the address.
        Unavailable: the store cannot be reached or refuses, or the package obstore is not installed.
    """
    bucket, _, prefix = address.removeprefix("s3://").partition("/")
    with _name_errors(address, where):
        from obstore.exceptions import NotFoundError

        store = _open_store(bucket)
        try:
            entries = [store.head(prefix)]
        except (FileNotFoundError, NotFoundError):
            entries = [entry for batch in store.list(prefix) for entry in batch]
    versions = {
        entry["path"]: f"{entry['e_tag']} {entry['size']}"
        for entry in entries
        if entry["path"] == prefix or _matches(glob, entry["path"].removeprefix(prefix).lstrip("/"))
    }
    if not versions:
        which = "" if glob == "*" else f" whose names match {glob!r}"
        raise ProjectError(
            f"the source has no objects at {address}{which}",
            where=where,
            remedy="Put its objects there, or correct the address.",
        )
    return dict(sorted(versions.items()))


def fetch_objects(settings: Settings, source: Source) -> dict[Path, str]:
    """Copies the objects that were not copied yet, and removes the copies of former versions.

    Returns:
        The copy of each object → its address, in the order of their keys.

    Raises:
        ProjectError, Unavailable: as `object_versions`; or an object changed while it was copied.
    """
    where = f"{source.place}: source {source.name!r}"
    versions = object_versions(source.path, source.glob, where)
    bucket = source.path.removeprefix("s3://").partition("/")[0]
    folder = make_private(settings.place("objects", short_digest(source.path)))
    copies = {}
    for key, version in versions.items():
        copy = folder / short_digest(f"{key} {version}") / PurePosixPath(key).name
        copies[copy] = f"s3://{bucket}/{key}"
        if not copy.is_file():
            with _name_errors(source.path, where):
                _copy(_open_store(bucket), key, version.partition(" ")[0], copy)
    kept = {copy.parent for copy in copies}
    for former in folder.iterdir():
        if former not in kept and not former.name.startswith("."):
            shutil.rmtree(former, ignore_errors=True)
    return copies


def _copy(store: S3Store, key: str, tag: str, copy: Path) -> None:
    draft = copy.parent.with_name(f".{new_id()}")
    draft.mkdir()
    try:
        with (draft / copy.name).open("wb") as file:
            for chunk in store.get(key, options={"if_match": tag}).stream(min_chunk_size=_CHUNK):
                file.write(chunk)
        move_into_place(draft, copy.parent)
    except OSError:
        if not copy.is_file():  # another process may have copied it
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _matches(glob: str, name: str) -> bool:
    parts = PurePosixPath(name).parts
    return (
        bool(parts) and not any(part.startswith((".", "_")) for part in parts) and fnmatchcase(parts[-1], glob)
    )


def _open_store(bucket: str) -> S3Store:
    """The bucket. Keys and region come from the environment, as the lake's do."""
    from obstore.store import S3Store

    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    config: dict[str, Any] = {"endpoint": endpoint} if endpoint else {}
    options: Any = {"allow_http": bool(endpoint and endpoint.startswith("http://"))}
    return S3Store(bucket, client_options=options, retry_config={"max_retries": 3}, **config)


@contextmanager
def _name_errors(address: str, where: str) -> Iterator[None]:
    require("obstore", "a source in S3", where=where)
    from obstore.exceptions import BaseError

    try:
        yield
    except (BaseError, FileNotFoundError, PermissionError) as error:
        raise Unavailable(
            f"the objects at {address} cannot be read: {str(error).splitlines()[0][:300]}",
            where=where,
            remedy="Check that AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION and AWS_ENDPOINT_URL_S3 are"
            " right, and build again.",
        ) from error
