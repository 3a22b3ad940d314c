"""The schema registry: finds the writer schema of an id, by the API of Confluent's registry (Apicurio has it
too).

The schema of an id never changes, so each is fetched once. An unknown id is requested again after a while: it
may have been registered by then.
"""

from __future__ import annotations

import json
import os
import time
from typing import Any
from urllib.parse import quote, urlsplit

import httpx

from headrace.events.formats.refusals import UnknownSchema
from headrace.kernel.errors import ProjectError, Unavailable

__all__ = ["SchemaRegistry"]

_RETRY_AFTER = 30.0  # seconds until an unknown id is requested again
_TIMEOUT = 10.0  # seconds


class SchemaRegistry:
    """The schemas of one registry.

    The user and password come from HEADRACE_SCHEMA_REGISTRY_USER and HEADRACE_SCHEMA_REGISTRY_PASSWORD.

    Args:
        url: its address (`https://registry.example`; Apicurio's ends in `/apis/ccompat/v7`).

    Raises:
        ProjectError: the address is not valid.
    """

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        if address.scheme not in ("http", "https") or not address.hostname or "@" in address.netloc:
            raise ProjectError(
                "the setting `schema_registry` is not a valid address",
                where="headrace.toml: profile",
                remedy="Write https://registry.example; user and password come from "
                "HEADRACE_SCHEMA_REGISTRY_USER and HEADRACE_SCHEMA_REGISTRY_PASSWORD.",
            )
        self._url = url.rstrip("/")
        self._schemas: dict[int, Any] = {}
        self._unknown: dict[int, float] = {}

    def schema(self, id: int) -> Any:
        """The schema of this id, as fastavro parses it.

        Raises:
            UnknownSchema: the registry does not have it, or it is not an Avro schema.
            Unavailable: the registry cannot be reached, or refuses the request.
        """
        schema = self._schemas.get(id)
        if schema is not None:
            return schema
        if self._unknown.get(id, 0.0) > time.monotonic():
            raise UnknownSchema(f"the registry has no Avro schema {id}")
        try:
            self._schemas[id] = self._fetch(id)
        except UnknownSchema:
            self._unknown[id] = time.monotonic() + _RETRY_AFTER
            raise
        return self._schemas[id]

    def subjects(self) -> list[str]:
        """The subjects: the names under which it stores schemas.

        Raises:
            Unavailable: the registry cannot be reached, or refuses the request.
            UnknownSchema: the server at this address is not a schema registry.
        """
        return list(self._get("/subjects", "the server at this address is not a schema registry"))

    def _fetch(self, id: int) -> Any:
        import fastavro

        named: dict[str, Any] = {}
        answer = self._get(f"/schemas/ids/{id}", f"the registry has no schema {id}")
        if answer.get("schemaType", "AVRO") != "AVRO":
            raise UnknownSchema(f"the registry's schema {id} is {answer['schemaType']}, not Avro")
        self._parse_references(answer, named, set())
        try:
            return fastavro.parse_schema(json.loads(answer["schema"]), named_schemas=named)
        except (KeyError, ValueError, TypeError, fastavro.schema.SchemaParseException) as error:
            raise UnknownSchema(f"the registry's schema {id} cannot be read: {error}") from error

    def _parse_references(self, answer: Any, named: dict[str, Any], seen: set[tuple[str, int]]) -> None:
        """Parse the schemas that a schema refers to, and those that they refer to, before it."""
        import fastavro

        for reference in answer.get("references") or []:
            subject, version = str(reference["subject"]), int(reference["version"])
            if (subject, version) not in seen:
                seen.add((subject, version))
                path = f"/subjects/{quote(subject, safe='')}/versions/{version}"
                inner = self._get(path, f"the registry has no version {version} of {subject!r}")
                self._parse_references(inner, named, seen)
                fastavro.parse_schema(json.loads(inner["schema"]), named_schemas=named)

    def _get(self, path: str, missing: str) -> Any:
        user = os.environ.get("HEADRACE_SCHEMA_REGISTRY_USER")
        auth = None if user is None else (user, os.environ.get("HEADRACE_SCHEMA_REGISTRY_PASSWORD", ""))
        try:
            answer = httpx.get(self._url + path, auth=auth, timeout=_TIMEOUT)
            if answer.status_code == 404 and _is_from_registry(answer):
                raise UnknownSchema(missing)
            answer.raise_for_status()
            return answer.json()
        except (httpx.HTTPError, ValueError) as error:
            raise Unavailable(
                f"the schema registry does not answer: {error}",
                where=self._url,
                remedy="Check the profile's `schema_registry` (Apicurio's address ends in /apis/ccompat/v7). "
                "Ingest continues once the registry answers.",
            ) from error


def _is_from_registry(answer: httpx.Response) -> bool:
    """Whether a 404 comes from the registry itself, and not from a wrong address."""
    try:
        return str(answer.json().get("error_code", "")).startswith("404")
    except (ValueError, AttributeError):
        return False
