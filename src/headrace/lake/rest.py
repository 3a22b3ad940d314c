"""PyIceberg's client of a REST catalog, with time limits: by itself it waits for an answer for ever."""

from __future__ import annotations

from typing import Any

from pyiceberg.catalog.rest import RestCatalog
from requests import Session
from requests.adapters import HTTPAdapter

__all__ = ["TimedRestCatalog"]

_CONNECT, _ANSWER = 5.0, 60.0  # seconds


class TimedRestCatalog(RestCatalog):  # type: ignore[misc]
    """Gives up where the service does not answer: the outcome of a commit is unknown then."""

    def _create_session(self) -> Session:
        session: Session = super()._create_session()
        for scheme in ("http://", "https://"):
            session.mount(scheme, _Timed())
        return session


class _Timed(HTTPAdapter):
    def send(self, request: Any, *given: Any, **named: Any) -> Any:
        return super().send(request, *given, **{**named, "timeout": (_CONNECT, _ANSWER)})
