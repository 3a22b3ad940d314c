"""The schema registry: the writer's schema of an id, by the API of Confluent's registry (Apicurio has it too).

Schemas never change under their id, so each is fetched once. An id that the registry does not know is
asked for again after a while: it may be known by then.
"""

from __future__ import annotations

import json
import os
import time
from typing import Any
from urllib.parse import quote, urlsplit

import httpx

from headrace.kernel.errors import ProjectError, Unavailable

__all__ = ["SchemaRegistry", "Unknown"]

_AGAIN = 30.0  # seconds until an unknown id is asked for again
_SECONDS = 10.0  # an answer may take


class Unknown(Exception):
    """The registry has no Avro schema of this id."""


class SchemaRegistry:
    """The schemas of one registry.

    User and password are taken from HEADRACE_SCHEMA_REGISTRY_USER and HEADRACE_SCHEMA_REGISTRY_PASSWORD.

    Args:
        url: its address (`https://registry.example`, Apicurio's ends in `/apis/ccompat/v7`).

    Raises:
        ProjectError: it is no address.
    """

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        if address.scheme not in ("http", "https") or not address.hostname or "@" in address.netloc:
            raise ProjectError(
                "the setting `schema_registry` is not the address of a schema registry",
                where="headrace.toml: profile",
                remedy="Write https://registry.example; user and password come from "
                "HEADRACE_SCHEMA_REGISTRY_USER and HEADRACE_SCHEMA_REGISTRY_PASSWORD.",
            )
        self._url = url.rstrip("/")
        self._schemas: dict[int, Any] = {}
        self._unknown: dict[int, float] = {}

    def schema(self, id: int) -> Any:
        """The schema of this id, as fastavro takes it.

        Raises:
            Unknown: the registry does not have it, or it is no schema of Avro's.
            Unavailable: the registry is away, or refuses to say.
        """
        found = self._schemas.get(id)
        if found is not None:
            return found
        if self._unknown.get(id, 0.0) > time.monotonic():
            raise Unknown(f"the registry has no Avro schema {id}")
        try:
            self._schemas[id] = self._parsed(id)
        except Unknown:
            self._unknown[id] = time.monotonic() + _AGAIN
            raise
        return self._schemas[id]

    def subjects(self) -> list[str]:
        """The names under which it keeps schemas.

        Raises:
            Unavailable: the registry is away, or refuses to say.
        """
        return list(self._get("/subjects", "this is no schema registry's address"))

    def _parsed(self, id: int) -> Any:
        import fastavro

        named: dict[str, Any] = {}
        answer = self._get(f"/schemas/ids/{id}", f"the registry has no schema {id}")
        if answer.get("schemaType", "AVRO") != "AVRO":
            raise Unknown(f"the registry's schema {id} is {answer['schemaType']}, not Avro")
        self._references(answer, named, set())
        try:
            return fastavro.parse_schema(json.loads(answer["schema"]), named_schemas=named)
        except (KeyError, ValueError, TypeError, fastavro.schema.SchemaParseException) as error:
            raise Unknown(f"the registry's schema {id} cannot be read: {error}") from error

    def _references(self, answer: Any, named: dict[str, Any], seen: set[tuple[str, int]]) -> None:
        """Reads the schemas that one refers to, and those that they refer to, before it."""
        import fastavro

        for one in answer.get("references") or []:
            place = (str(one["subject"]), int(one["version"]))
            if place not in seen:
                seen.add(place)
                subject = quote(place[0], safe="")
                inner = self._get(f"/subjects/{subject}/versions/{place[1]}", f"the registry has no {place}")
                self._references(inner, named, seen)
                fastavro.parse_schema(json.loads(inner["schema"]), named_schemas=named)

    def _get(self, path: str, missing: str) -> Any:
        user = os.environ.get("HEADRACE_SCHEMA_REGISTRY_USER")
        auth = None if user is None else (user, os.environ.get("HEADRACE_SCHEMA_REGISTRY_PASSWORD", ""))
        try:
            answer = httpx.get(self._url + path, auth=auth, timeout=_SECONDS)
            if answer.status_code == 404 and _is_registrys(answer):
                raise Unknown(missing)
            answer.raise_for_status()
            return answer.json()
        except (httpx.HTTPError, ValueError) as error:
            raise Unavailable(
                f"the schema registry does not answer: {error}",
                where=self._url,
                remedy="Is the profile's `schema_registry` its address (Apicurio's ends in /apis/ccompat/v7)? "
                "Ingest waits for it.",
            ) from error


def _is_registrys(answer: httpx.Response) -> bool:
    """Whether it is the registry that does not know, and not a wrong address."""
    try:
        return str(answer.json().get("error_code", "")).startswith("404")
    except (ValueError, AttributeError):
        return False
