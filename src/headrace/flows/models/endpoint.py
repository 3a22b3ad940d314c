"""Asks the running predict endpoint for its releases."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Container
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from headrace.config.settings import Settings
from headrace.http.token import client_headers
from headrace.kernel.errors import Refused, Unavailable
from headrace.projects.running import Up
from headrace.serving.models import ReleaseFailure
from headrace.serving.release import Release

__all__ = ["EndpointReport", "await_release", "describe"]

_TIMEOUT = 10.0  # seconds for a response: the machine may be busy
_ACTIVATION = 30.0  # seconds until the endpoint must have activated a release
_POLL = 0.1


class _Model(Struct):
    release: Release


class EndpointReport(Struct):
    """The releases on the endpoint.

    Attributes:
        models: model → its active release.
        failed: model → the release that could not be activated, and why.
        unfilled: model → why it cannot answer yet: the online store holds no values of one of its views.
    """

    models: dict[str, _Model]
    failed: dict[str, ReleaseFailure]
    unfilled: dict[str, str] = {}


def describe(settings: Settings, up: Up) -> EndpointReport:
    """Asks the endpoint for its releases.

    Raises:
        Unavailable: it does not answer within 10 s.
    """
    address = urlsplit(up.predict)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=_TIMEOUT)
    try:
        connection.request("GET", "/models", headers=client_headers(settings.token_paths))
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise Unavailable(
            f"the predict endpoint does not answer: {error}", where=up.predict, remedy="headrace status"
        ) from error
    finally:
        connection.close()
    if response.status != 200:
        raise Unavailable(f"the predict endpoint answers {response.status} to GET /models", where=up.predict)
    try:
        return msgspec.json.decode(body, type=EndpointReport)
    except (msgspec.DecodeError, json.JSONDecodeError) as error:
        raise Unavailable(f"GET /models of the predict endpoint: {error}", where=up.predict) from error


def await_release(settings: Settings, up: Up, release: Release, earlier: Container[str]) -> None:
    """Returns when the endpoint has activated this release or a later one.

    Args:
        settings: the project's settings.
        up: its `up`.
        release: the release.
        earlier: the ids of the model's releases before it. Their times do not tell: clocks differ.

    Raises:
        Refused: the endpoint cannot activate it; the previous release stays in force there.
        Unavailable: the endpoint has not activated the release, or has not answered, within 30 s.
    """
    deadline = time.monotonic() + _ACTIVATION
    while True:
        try:
            if _is_active(describe(settings, up), up, release, earlier):
                return
        except Unavailable:  # a replica that was lost is being replaced, or the machine is busy
            if time.monotonic() > deadline:
                raise
        if time.monotonic() > deadline:
            raise Unavailable(
                f"release {release.id} is recorded, but the endpoint has not activated it"
                f" within {_ACTIVATION:.0f} s",
                where=up.predict,
                remedy="See headrace status.",
            )
        time.sleep(_POLL)


def _is_active(report: EndpointReport, up: Up, release: Release, earlier: Container[str]) -> bool:
    """Whether this release or a later one is active; raises Refused if the endpoint cannot activate it."""
    model = report.models.get(release.model)
    if model is not None and model.release.id not in earlier:
        return True
    failure = report.failed.get(release.model)
    if failure is not None and failure.release == release.id:
        raise Refused(
            f"release {release.id} is recorded, but the endpoint cannot activate it: {failure.why}",
            where=up.predict,
            remedy="The previous release stays in force there. To go back to it:"
            f" headrace rollback {release.model}",
        )
    return False
