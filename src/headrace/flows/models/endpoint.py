"""What the running predict endpoint says of itself."""

from __future__ import annotations

import http.client
import json
import os
import time
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from headrace.http.token import TOKEN
from headrace.kernel.errors import Refused, Unavailable
from headrace.projects.running import Up
from headrace.serving.models import Failure
from headrace.serving.release import Release

__all__ = ["Answering", "await_release", "describe"]

_SECONDS = 2.0  # that an answer may take
_TAKEN_UP = 30.0  # seconds that the endpoint has for a release
_LOOK = 0.1


class _Model(Struct):
    release: Release


class Answering(Struct):
    """What the endpoint answers with.

    Attributes:
        models: model → the release that answers.
        failed: model → the release that could not be put in place, and why.
    """

    models: dict[str, _Model]
    failed: dict[str, Failure]


def describe(up: Up) -> Answering:
    """Asks the endpoint which releases answer.

    Raises:
        Unavailable: it does not answer within 2 s.
    """
    address = urlsplit(up.predict)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=_SECONDS)
    token = os.environ.get(TOKEN)
    try:
        connection.request("GET", "/models", headers={"Authorization": f"Bearer {token}"} if token else {})
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
        return msgspec.json.decode(body, type=Answering)
    except (msgspec.DecodeError, json.JSONDecodeError) as error:
        raise Unavailable(f"GET /models of the predict endpoint: {error}", where=up.predict) from error


def await_release(up: Up, release: Release) -> None:
    """Returns when the endpoint answers by this release.

    Raises:
        Refused: the endpoint cannot take it up; the release before still answers there.
        Unavailable: the endpoint does not answer, or has not taken it up in time.
    """
    deadline = time.monotonic() + _TAKEN_UP
    while True:
        now = describe(up)
        model = now.models.get(release.model)
        if model is not None and model.release.id >= release.id:  # ids rise with time: a later one will do
            return
        failure = now.failed.get(release.model)
        if failure is not None and failure.release == release.id:
            raise Refused(
                f"release {release.id} is recorded, but the endpoint cannot take it up: {failure.why}",
                where=up.predict,
                remedy="The release before still answers there. To go back to it:"
                f" headrace rollback {release.model}",
            )
        if time.monotonic() > deadline:
            raise Unavailable(
                f"release {release.id} is recorded, but the endpoint has not taken it up in {_TAKEN_UP:.0f} s",
                where=up.predict,
                remedy="See headrace status.",
            )
        time.sleep(_LOOK)
