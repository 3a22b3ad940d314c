"""An HTTP client for the servers of `up`: sends JSON over one connection and measures the time."""

from __future__ import annotations

import http.client
import json
import time
from typing import Any

from headrace.kernel.errors import HeadraceError

__all__ = ["JsonClient"]

_TIMEOUT = 60.0  # seconds


class JsonClient:
    """A client that keeps one connection. Use it as a context manager.

    Args:
        url: the server's address.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=_TIMEOUT)

    def __enter__(self) -> JsonClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def post(self, path: str, body: Any) -> dict[str, Any]:
        """POSTs a JSON body and returns the JSON answer.

        Raises:
            HeadraceError: the status is not a success.
        """
        self._connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        response = self._connection.getresponse()
        text = response.read()
        if response.status >= 300:
            raise HeadraceError(
                f"the server answered {response.status}: {text.decode(errors='replace')}",
                where=self._url + path,
            )
        answer: dict[str, Any] = json.loads(text)
        return answer

    def time_post(self, path: str, body: Any) -> float:
        """POSTs a JSON body and returns the seconds until the answer. Raises HeadraceError like `post`."""
        start = time.perf_counter()
        self.post(path, body)
        return time.perf_counter() - start
