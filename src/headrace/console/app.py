"""The console's application: its routes, and how values are written."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from datetime import datetime, timedelta
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qs

import msgspec
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from headrace import lineage, registry
from headrace.config.settings import Settings
from headrace.console.door import COOKIE, ConsoleDoor, signed_in
from headrace.console.overview import overview
from headrace.flows.trace.why import why
from headrace.http.asgi import App
from headrace.kernel.errors import CallError, HeadraceError
from headrace.kernel.position import Position, SnapshotPosition
from headrace.kernel.time import now
from headrace.lineage.graph import upstream
from headrace.projects.project import Project, load_project

__all__ = ["Console", "app"]

_RUNS = 100
_HEADERS = {
    # Nothing is loaded from elsewhere, no script runs, and nobody frames the pages.
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def app(settings: Settings) -> App:
    """The console behind its door, for http.serve."""
    console = Console(settings)
    routes = [
        Route("/", console.home),
        Route("/runs", console.runs),
        Route("/runs/{id}", console.run),
        Route("/models/{model}", console.model),
        Route("/predictions", console.asked),
        Route("/predictions/{id}", console.prediction),
        Route("/login", console.login, methods=["GET", "POST"]),
        Route("/style.css", console.style),
        Route("/healthz", console.health),
    ]
    inner = Starlette(
        routes=routes,
        exception_handlers={HeadraceError: console.failed, 404: console.lost},  # type: ignore[dict-item]
    )
    return ConsoleDoor(_with_headers(inner), settings.http.host)


class Console:
    """The pages. Every value that is printed is escaped by the templates."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._made: Project | None = None
        self._templates = Environment(
            loader=PackageLoader("headrace.console"), autoescape=True, undefined=StrictUndefined,
            trim_blocks=True, lstrip_blocks=True,
        )  # fmt: skip
        self._templates.filters |= {
            "count": _count, "ago": _ago, "when": _when, "number": _number, "json": _json, "took": _took,
            "place": _place, "pairs": _pairs,
        }  # fmt: skip
        self._style = files("headrace.console").joinpath("style.css").read_text("utf-8")

    @property
    def _project(self) -> Project:
        if self._made is None:
            self._made = load_project(self._settings, without=["feast"])
        return self._made

    def home(self, _request: Request) -> Response:
        """Topics, tables and releases."""
        return self._page("overview.html", seen=overview(self._settings, self._project))

    def runs(self, request: Request) -> Response:
        """The newest runs, of all jobs or one."""
        job = request.query_params.get("job") or None
        with contextlib.closing(lineage.open(self._settings)) as store:
            return self._page("runs.html", runs=store.runs(job=job, limit=_RUNS), job=job)

    def run(self, request: Request) -> Response:
        """One run with its inputs and outputs, and where its inputs come from."""
        id = request.path_params["id"]  # noqa: A001
        with contextlib.closing(lineage.open(self._settings)) as store:
            found = store.run(id)
            if found is None:
                raise CallError(f"there is no run {id}")
            above = [upstream(store, one.kind, one.name, one.position) for one in found.inputs]
            return self._page("run.html", run=found, above=above)

    def model(self, request: Request) -> Response:
        """A model's versions."""
        name = request.path_params["model"]
        versions = registry.open(self._settings).versions(name)
        if not versions:
            raise CallError(f"there is no version of model {name!r}")
        return self._page("model.html", name=name, versions=versions)

    def asked(self, request: Request) -> Response:
        """From the form to the prediction's page."""
        id = request.query_params.get("id", "").strip()  # noqa: A001
        if not id.replace("-", "").isalnum():
            raise CallError(f"{id!r} is no prediction's id")
        return RedirectResponse(f"/predictions/{id}", 303)

    def prediction(self, request: Request) -> Response:
        """Why: a prediction back to its raw events."""
        return self._page("prediction.html", why=why(self._settings, request.path_params["id"]))

    async def login(self, request: Request) -> Response:
        """Takes the token once and gives a cookie for it."""
        if request.method == "GET":
            return self._page("login.html", wrong=False)
        given = parse_qs((await request.body()).decode("latin-1")).get("token", [""])[0]
        session = signed_in(given, self._settings.http.host)
        if session is None:
            return self._page("login.html", 401, wrong=True)
        answer = RedirectResponse("/", 303)
        answer.set_cookie(COOKIE, session, httponly=True, samesite="strict", max_age=12 * 3600)
        return answer

    def style(self, _request: Request) -> Response:
        """The one style sheet."""
        return Response(self._style, media_type="text/css")

    def health(self, _request: Request) -> Response:
        """Whether it answers."""
        return Response('{"status":"ok"}', media_type="application/json")

    def failed(self, _request: Request, error: HeadraceError) -> Response:
        """An error, as a page that says what, where and what to do."""
        return self._page("error.html", 404 if isinstance(error, CallError) else 503, error=error)

    def lost(self, request: Request, _error: Exception) -> Response:
        """No such page."""
        return self._page("error.html", 404, error=CallError(f"there is no page {request.url.path}"))

    def _page(self, template: str, status: int = 200, **values: Any) -> HTMLResponse:
        text = self._templates.get_template(template).render(
            project=self._settings.project, profile=self._settings.profile_name, **values
        )
        return HTMLResponse(text, status)


def _with_headers(inner: ASGIApp) -> App:
    lines = [(k.lower().encode(), v.encode()) for k, v in _HEADERS.items()]

    async def outer(scope: Scope, receive: Receive, send: Send) -> None:
        async def adding(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *lines]
            await send(message)

        await inner(scope, receive, adding)

    return outer


def _count(value: int) -> str:
    return f"{value:,}"


def _number(value: object) -> str:
    if value is None:
        return "missing"
    return f"{value:,.6g}" if isinstance(value, float) else str(value)


def _json(value: object) -> str:
    return msgspec.json.encode(value, enc_hook=str).decode()


def _place(position: Position) -> str:
    if isinstance(position, SnapshotPosition):
        return f"snapshot {position.snapshot_id}"
    return "up to " + (", ".join(f"{p}:{o}" for p, o in sorted(position.offsets.items())) or "the beginning")


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{k} {_number(v) if not isinstance(v, datetime) else v}" for k, v in values.items() if v is not None
    )


def _when(value: datetime | None) -> str:
    return "" if value is None else f"{value:%Y-%m-%d %H:%M:%S}"


def _ago(value: timedelta | datetime | None) -> str:
    if value is None:
        return "never"
    seconds = int((value if isinstance(value, timedelta) else now() - value).total_seconds())
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size} {unit} ago"
    return f"{max(seconds, 0)} s ago"


def _took(run: lineage.RunRow) -> str:
    if run.ended is None:
        return ""
    seconds = (run.ended - run.started).total_seconds()
    return f"{seconds:.2f} s" if seconds < 100 else f"{seconds / 60:.1f} min"
