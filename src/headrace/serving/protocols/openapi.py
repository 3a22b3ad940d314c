"""The OpenAPI description of the endpoint (https://spec.openapis.org/oas/v3.1.0).

GET /openapi.json   the document, with the fields of the models that answer now
GET /docs           the same as a page
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from importlib.metadata import version
from typing import Any

import msgspec

from headrace.http.responses import HttpError, error_body
from headrace.serving.models import Models
from headrace.serving.protocols import data_list, features, kserve_v1, mlflow_scoring, native, open_inference
from headrace.serving.protocols.json_schema import TEXT, schema_of
from headrace.serving.protocols.port import PostRoute, PredictRoute, ReadRoute, Route
from headrace.serving.request_schema import InstanceSchema

__all__ = ["ROUTES", "encode_error"]

_encode = msgspec.json.Encoder().encode
_DESCRIBED = (native, features, kserve_v1, open_inference, mlflow_scoring, data_list)
_STYLE = "body{font:16px/1.5 system-ui;max-width:60rem;margin:2rem auto;padding:0 1rem}pre{overflow:auto}"
_ERRORS = {
    "400": "The body is not valid JSON, or the query is not valid.",
    "404": "The model, the version or the service does not answer.",
    "413": "The body, or the record of a prediction, is too large.",
    "415": "The content type is not one that the path takes.",
    "422": "An instance does not fit the model. The error names the instance and the field.",
    "503": "The features cannot be read, or no prediction can be made or logged now.",
}


def encode_error(error: HttpError) -> bytes:
    """`{"error": {"code", "message", "field"?, ...}}`."""
    return error_body(error)


def _read_document(models: Models, _names: Mapping[str, str]) -> bytes:
    return _encode(_describe(models))


def _describe(models: Models) -> dict[str, Any]:
    """The document. A path with a model is described for each model, because each has its fields."""
    paths: dict[str, dict[str, Any]] = {}
    for protocol in _DESCRIBED:
        for route in protocol.ROUTES:
            for path, model in _expand_path(route, models):
                method = "get" if isinstance(route, ReadRoute) else "post"
                paths.setdefault(path, {})[method] = _operation(route, path, models, model)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Headrace predict endpoint", "version": version("headrace")},
        "paths": paths,
        "components": {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
        "security": [{}, {"token": []}],
    }


def _expand_path(route: Route, models: Models) -> list[tuple[str, str | None]]:
    """The paths of a route, each with its model. `{version}` stays a parameter."""
    if "{model}" in route.path:
        return [(route.path.replace("{model}", name), name) for name in models.names]
    if isinstance(route, PredictRoute):  # of the only model
        return [(route.path, models.names[0])] if len(models.names) == 1 else []
    return [(route.path, None)]


def _operation(route: Route, path: str, models: Models, model: str | None) -> dict[str, Any]:
    operation: dict[str, Any] = {"summary": route.summary, "tags": [model or "server"]}
    responses: dict[str, Any] = {"200": {"description": "The answer."}}
    if isinstance(route, PredictRoute) and model is not None:
        schema = route.body_schema(_describe_instance(models.find(model).schema))
    elif isinstance(route, PostRoute):
        schema = route.body_schema(models, _describe_instance)
    else:
        schema = None
    if not isinstance(route, ReadRoute):
        content = {"application/json": {"schema": route.answer_schema}}
        responses["200"] = {"description": "The answer.", "content": content}
    if schema is not None:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
        responses |= {status: {"description": text} for status, text in _ERRORS.items()}
    parameters = []
    if "{version}" in path:
        parameters.append({"name": "version", "in": "path", "required": True, "schema": TEXT})
    if isinstance(route, PredictRoute) and route.takes_as_of:
        moment = {**TEXT, "format": "date-time"}
        text = "Answers as of this moment."
        parameters.append({"name": "as_of", "in": "query", "schema": moment, "description": text})
    if parameters:
        operation["parameters"] = parameters
    return {**operation, "responses": responses}


def _describe_instance(schema: InstanceSchema) -> dict[str, Any]:
    """The JSON schema of an instance. One that gives features names at least one."""
    keyed, *others = schema.instance_types
    rows = [form for type_ in others for form in _list_forms(type_)]
    for form in rows:
        if form["type"] == "object":
            form["anyOf"] = [{"required": [name]} for name in schema.features]
    forms = _list_forms(keyed) + rows
    return forms[0] if len(forms) == 1 else {"anyOf": forms}


def _list_forms(type_: Any) -> list[dict[str, Any]]:
    """The JSON schemas of which a value of the type fits one."""
    schema = schema_of(type_)
    forms: list[dict[str, Any]] = schema.get("anyOf", [schema])
    return forms


def _read_page(models: Models, _names: Mapping[str, str]) -> bytes:
    document = _describe(models)
    parts = [f"<!doctype html><meta charset=utf-8><title>{document['info']['title']}</title>"]
    parts.append(f"<style>{_STYLE}</style><h1>{document['info']['title']}</h1>")
    parts.append('<p>The same as an OpenAPI document: <a href="openapi.json">openapi.json</a></p>')
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            parts.append(
                f"<h2><code>{method.upper()} {escape(path)}</code></h2><p>{escape(operation['summary'])}"
            )
            if "requestBody" in operation:
                schema = operation["requestBody"]["content"]["application/json"]["schema"]
                text = msgspec.json.format(_encode(schema), indent=2).decode()
                parts.append(f"<details><summary>Body</summary><pre>{escape(text)}</pre></details>")
    return "\n".join(parts).encode()


ROUTES = (
    ReadRoute("/openapi.json", _read_document, "The OpenAPI document"),
    ReadRoute("/docs", _read_page, "This description as a page", b"text/html; charset=utf-8"),
)
"""The routes of this protocol."""
