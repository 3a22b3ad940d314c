"""The source location of a job: the fields of OpenLineage's sourceCodeLocation facet."""

from __future__ import annotations

import re

from headrace.projects.checkout import Checkout

__all__ = ["source_location"]


def source_location(checkout: Checkout) -> dict[str, str]:
    """The fields of the facet for code in a git checkout. `url` opens in a browser if there is a remote."""
    fields = {"type": "git", "url": _url(checkout), "version": checkout.commit}
    if checkout.path:
        fields["path"] = checkout.path
    if checkout.remote is not None:
        fields["repoUrl"] = checkout.remote
    return fields


def _url(checkout: Checkout) -> str:
    folder = (checkout.root / checkout.path).as_uri()
    if checkout.remote is None or checkout.remote.startswith(("/", "file:")):
        return folder
    match = re.fullmatch(r"(?:\w+://)?(?:[^@/]*@)?([^:/]+)(?::\d+)?[:/](.+?)(?:\.git)?/?", checkout.remote)
    if match is None:
        return folder
    return f"https://{match[1]}/{match[2]}/tree/{checkout.commit}/{checkout.path}".rstrip("/")
