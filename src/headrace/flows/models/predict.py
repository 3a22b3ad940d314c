"""predict: asks the running endpoint for one prediction."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import httpx

from headrace.config.settings import Settings
from headrace.http.token import client_headers
from headrace.kernel.errors import CallError, HeadraceError, Unavailable
from headrace.projects.running import find_up

__all__ = ["predict"]

_TIMEOUT = 30.0  # seconds


def predict(
    settings: Settings,
    model: str,
    values: Mapping[str, Any],
    *,
    explain: bool = False,
    as_of: datetime | None = None,
    version: int | None = None,
) -> dict[str, Any]:
    """Asks for one prediction. Returns id, model, version, arm, value, missing, and features if `explain`.

    As of a past moment, it returns as_of, logged and features, and no id (serving.as_of.predictor).

    Args:
        settings: the settings of the project, whose `up` must run.
        model: the name of the model.
        values: entity keys and request fields. Text is read as the field's type.
        explain: whether to add the features as the model saw them.
        as_of: an aware datetime: the past moment to answer for; None: now.
        version: the version that answers for the past moment; None: the one that answered then.

    Raises:
        Unavailable: no `up` runs for this project and profile, or the endpoint does not answer.
        CallError: the model is not released, a field is missing, unknown or of the wrong type, or nothing is
            known of the moment.
    """
    if version is not None and as_of is None:
        raise CallError("the version can only be named for a past moment", remedy="Name the moment: as_of.")
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
            params = _query(explain, as_of, version)
            response = client.post(f"/predict/{model}", params=params, json=body)
            takes = ", ".join(f"{name} ({dtype})" for name, dtype in fields.items())
            return _read_response(response, f"{model} takes {takes}." if takes else None)
        except httpx.HTTPError as error:
            raise Unavailable(
                f"the predict endpoint does not answer: {error}", where=up.predict, remedy="headrace status"
            ) from error


def _query(explain: bool, as_of: datetime | None, version: int | None) -> dict[str, str]:
    if as_of is None:
        return {"explain": "1"} if explain else {}
    return {"as_of": as_of.isoformat()} | ({} if version is None else {"version": str(version)})


def _parse(value: Any, dtype: str | None) -> Any:
    """Text as the field's type. Text that is not of the type is sent as it is: the endpoint names the error."""
    if not isinstance(value, str) or dtype == "string":
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        return value


def _read_response(response: httpx.Response, remedy: str | None = None) -> dict[str, Any]:
    try:
        body: dict[str, Any] = response.json()
    except ValueError:
        body = {}
    if response.is_success:
        return body
    error = body.get("error", {})
    if error.get("code") == "no_such_model":
        released = ", ".join(error.get("models", ())) or "none; headrace build trains and releases models"
        raise CallError(error["message"], remedy=f"Released models: {released}.")
    message = error.get("message", f"the endpoint answered {response.status_code}")
    if response.status_code in (400, 404, 413, 422):
        raise CallError(message, where=error.get("field"), remedy=remedy)
    if response.status_code == 503:
        raise Unavailable(message, where=str(response.url))
    raise HeadraceError(message, where=str(response.url))
