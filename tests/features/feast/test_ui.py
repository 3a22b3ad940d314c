"""`feast ui`, on a project's registry."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from tests.until import until

from headrace.features.feast import apply
from headrace.kernel.ports import find_free_port
from headrace.projects.project import Project


def test_feast_ui_shows_the_projects_objects(small: Callable[..., Project]) -> None:
    folder, port = apply(small()).folder, find_free_port()
    command = [Path(sys.executable).parent / "feast", "--chdir", folder, "ui", "--host", "127.0.0.1"]
    process = subprocess.Popen(
        [*command, "--port", str(port)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:

        def ask(path: str) -> httpx.Response | None:
            try:
                return client.get(path)
            except httpx.TransportError:
                assert process.poll() is None, process.communicate()[0]
                return None

        def names(kind: str) -> set[str]:
            answer: dict[str, list[Any]] = client.get(f"/api/v1/{kind}", params={"project": "small"}).json()
            (objects,) = (value for value in answer.values() if isinstance(value, list))
            return {(entry.get("spec") or entry)["name"] for entry in objects}

        try:
            until(lambda: ask("/health"), "an answer of feast ui")
            assert '<div id="root">' in client.get("/p/small/feature-view").text
            assert [p["id"] for p in client.get("/projects-list.json").json()["projects"]] == ["small"]
            assert names("feature_views") == {"activity", "facts", "moment"}
            assert names("feature_services") == {"bought"}
            assert names("entities") >= {"item", "user"}
            assert names("data_sources") >= {"item_facts", "scaled", "facts_stream", "scaled_stream", "asked"}
        finally:
            process.terminate()
            process.communicate()
