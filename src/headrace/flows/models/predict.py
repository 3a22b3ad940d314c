"""predict: one prediction from the running endpoint."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import httpx

from headrace.config.settings import Settings
from headrace.http.token import TOKEN
from headrace.kernel.errors import CallError, HeadraceError, Unavailable
from headrace.projects.running import running

__all__ = ["predict"]

_SECONDS = 30.0


def predict(
    settings: Settings, model: str, values: Mapping[str, Any], *, explain: bool = False
) -> dict[str, Any]:
    """The endpoint's answer: id, model, version, arm, score, missing, and features where asked.

    Args:
        settings: of which project; its `up` must run.
        model: which model.
        values: entity keys and request fields. Text is read as the field's own type.
        explain: with the features as the model saw them.

    Raises:
        Unavailable: no `up` runs here, or the endpoint does not answer.
        CallError: no such model is released, a field is missing, unknown or of the wrong type.
    """
    up = running(settings)
    if up is None:
        raise Unavailable("no endpoint runs here", where=str(settings.root), remedy="Start it: headrace up")
    token = os.environ.get(TOKEN)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    with httpx.Client(base_url=up.predict, headers=headers, timeout=_SECONDS, trust_env=False) as client:
        try:
            models = _answer(client.get("/models"))["models"]
            fields = models.get(model, {}).get("fields", {})
            body = {name: _typed(value, fields.get(name)) for name, value in values.items()}
            return _answer(
                client.post(f"/predict/{model}", params={"explain": 1} if explain else {}, json=body)
            )
        except httpx.HTTPError as error:
            raise Unavailable(
                f"the endpoint does not answer: {error}", where=up.predict, remedy="headrace status"
            ) from error


def _typed(value: Any, dtype: str | None) -> Any:
    """Text as the field's type; what cannot be read so goes as it is, and the endpoint says why not."""
    if not isinstance(value, str) or dtype == "string":
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        return value


def _answer(response: httpx.Response) -> dict[str, Any]:
    try:
        body: dict[str, Any] = response.json()
    except ValueError:
        body = {}
    if response.is_success:
        return body
    error = body.get("error", {})
    message = error.get("message", f"the endpoint answered {response.status_code}")
    if response.status_code in (400, 404, 413, 422):
        raise CallError(message, where=error.get("field"))
    if response.status_code == 503:
        raise Unavailable(message, where=str(response.url))
    raise HeadraceError(message, where=str(response.url))
