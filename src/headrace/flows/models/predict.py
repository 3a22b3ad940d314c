"""predict: asks the running endpoint for one prediction."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import httpx

from headrace.config.settings import Settings
from headrace.http.token import client_headers
from headrace.kernel.errors import CallError, HeadraceError, Unavailable
from headrace.projects.running import find_up

__all__ = ["predict"]

_TIMEOUT = 30.0  # seconds


def predict(
    settings: Settings, model: str, values: Mapping[str, Any], *, explain: bool = False
) -> dict[str, Any]:
    """Asks for one prediction. Returns id, model, version, arm, value, missing, and features if `explain`.

    Args:
        settings: the settings of the project, whose `up` must run.
        model: the name of the model.
        values: entity keys and request fields. Text is read as the field's type.
        explain: whether to add the features as the model saw them.

    Raises:
        Unavailable: no `up` runs for this project and profile, or the endpoint does not answer.
        CallError: the model is not released, or a field is missing, unknown or of the wrong type.
    """
    up = find_up(settings)
    if up is None:
        raise Unavailable(
            "the predict endpoint is not running", where=str(settings.root), remedy="Start it: headrace up"
        )
    headers = client_headers(settings.token_paths)
    with httpx.Client(base_url=up.predict, headers=headers, timeout=_TIMEOUT, trust_env=False) as client:
        try:
            answer = _read_response(client.get("/models"))
            fields = {**answer["deployed"], **answer["models"]}.get(model, {}).get("fields", {})
            body = {name: _parse(value, fields.get(name)) for name, value in values.items()}
            params = {"explain": 1} if explain else {}
            return _read_response(client.post(f"/predict/{model}", params=params, json=body))
        except httpx.HTTPError as error:
            raise Unavailable(
                f"the predict endpoint does not answer: {error}", where=up.predict, remedy="headrace status"
            ) from error


def _parse(value: Any, dtype: str | None) -> Any:
    """Text as the field's type. Text that is not of the type is sent as it is: the endpoint names the error."""
    if not isinstance(value, str) or dtype == "string":
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        return value


def _read_response(response: httpx.Response) -> dict[str, Any]:
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
