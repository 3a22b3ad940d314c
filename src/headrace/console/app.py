"""The console: read-only pages about the project. No page runs a script."""

from __future__ import annotations

from functools import cached_property
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qs

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from headrace.config.settings import Settings
from headrace.console.filters import FILTERS, show_unprintable
from headrace.console.session import COOKIE, ConsoleGuard
from headrace.flows.project.check_tables import check_table
from headrace.flows.project.freshness import VerdictCounts, count_verdicts
from headrace.flows.project.graph import graph
from headrace.flows.project.graph_svg import to_svg
from headrace.flows.project.schedules import schedule_status
from headrace.flows.project.status import Status, status
from headrace.flows.trace.lineage import find_origin, lineage
from headrace.flows.trace.why import why
from headrace.http.asgi import App
from headrace.kernel.errors import CallError, HeadraceError
from headrace.lake.table_state import read_table_states
from headrace.lineage.graph import upstream
from headrace.workspace import Workspace

__all__ = ["Console", "app"]

_RUNS = 100  # on the page of runs
_SESSION_SECONDS = 12 * 3600
_HEADERS = {
    # No page loads anything from other servers, runs a script, or may be framed by another page.
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def app(settings: Settings) -> App:
    """The console with its guard, for http.serve."""
    console = Console(settings)
    routes = [
        Route("/", console.overview),
        Route("/graph", console.graph),
        Route("/runs", console.runs),
        Route("/runs/{id}", console.run),
        Route("/schedules", console.schedules),
        Route("/models/{model}", console.model),
        Route("/lineage/{name}", console.lineage),
        Route("/predictions", console.find_prediction),
        Route("/predictions/{id}", console.prediction),
        Route("/login", console.login, methods=["GET", "POST"]),
        Route("/style.css", console.style),
        Route("/healthz", console.health),
    ]
    inner = Starlette(
        routes=routes,
        exception_handlers={HeadraceError: console.show_error, 404: console.show_not_found},  # type: ignore[dict-item]
    )
    console.guard = ConsoleGuard(_add_headers(inner), settings.http.host, settings.token_paths)
    return console.guard


class Console:
    """The pages. The templates escape every value that they print.

    Attributes:
        guard: the guard before the pages.
    """

    guard: ConsoleGuard

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @cached_property
    def _templates(self) -> Environment:
        environment = Environment(
            loader=PackageLoader("headrace.console"),
            autoescape=True,
            undefined=StrictUndefined,
            finalize=show_unprintable,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.filters |= FILTERS
        return environment

    @cached_property
    def _style(self) -> str:
        return files("headrace.console").joinpath("style.css").read_text("utf-8")

    def overview(self, _request: Request) -> Response:
        """The status of the project, with the good and refused events of each topic."""
        with Workspace(self._settings) as workspace:
            state = status(workspace, load_features=False)
        return self._page("overview.html", state=state, verdicts=self._verdicts(state))

    def graph(self, _request: Request) -> Response:
        """The project as a picture, with its freshness."""
        with Workspace(self._settings) as workspace:
            drawn = graph(workspace, status(workspace, load_features=False), load_features=False)
        return self._page("graph.html", picture=to_svg(drawn))

    def _verdicts(self, state: Status) -> dict[str, VerdictCounts]:
        if any(topic.lag is None for topic in state.topics):  # the catalog cannot be read
            return {}
        tables = [topic.table for topic in state.topics]
        with Workspace(self._settings) as workspace:
            return count_verdicts(workspace, tables, read_table_states(workspace.lake))

    def runs(self, request: Request) -> Response:
        """The newest runs, of all jobs or one."""
        job = request.query_params.get("job") or None
        with Workspace(self._settings) as workspace:
            store = workspace.lineage
            return self._page("runs.html", runs=store.runs(job=job, limit=_RUNS), job=job)

    def run(self, request: Request) -> Response:
        """One run with its inputs and outputs, and where its inputs come from."""
        run_id = request.path_params["id"]
        with Workspace(self._settings) as workspace:
            store = workspace.lineage
            run = store.run(run_id)
            if run is None:
                raise CallError(f"run {run_id} does not exist")
            above = [upstream(store, dataset.kind, dataset.name, dataset.position) for dataset in run.inputs]
        return self._page("run.html", run=run, upstream=above)

    def schedules(self, _request: Request) -> Response:
        """The schedules: when each runs next, and how its last runs ended."""
        return self._page("schedules.html", schedules=schedule_status(self._settings))

    def model(self, request: Request) -> Response:
        """A model's versions."""
        name = request.path_params["model"]
        with Workspace(self._settings) as workspace:
            versions = workspace.registry.versions(name)
        if not versions:
            raise CallError(f"model {name!r} has no versions")
        return self._page("model.html", name=name, versions=versions)

    def lineage(self, request: Request) -> Response:
        """What an endpoint, a version of a model or a table was made from; the audits of the table."""
        name = request.path_params["name"]
        with Workspace(self._settings) as workspace:
            check = check_table(workspace, name)
            # The first rows of a table may be refused: no run has written it then.
            find = find_origin if check.state == "refused" else lineage
            return self._page("lineage.html", name=name, origin=find(workspace, name), check=check)

    def find_prediction(self, request: Request) -> Response:
        """Redirects the form to the prediction's page."""
        prediction_id = request.query_params.get("id", "").strip()
        if not prediction_id.replace("-", "").isalnum():
            raise CallError(f"{prediction_id!r} is not a valid prediction id")
        return RedirectResponse(f"/predictions/{prediction_id}", 303)

    def prediction(self, request: Request) -> Response:
        """What `headrace why` says about a prediction."""
        with Workspace(self._settings) as workspace:
            return self._page("prediction.html", why=why(workspace, request.path_params["id"]))

    async def login(self, request: Request) -> Response:
        """Exchanges the token for a cookie."""
        if request.method == "GET":
            return self._page("login.html", wrong=False)
        token = parse_qs((await request.body()).decode("latin-1")).get("token", [""])[0]
        session = self.guard.sign_in(token)
        if session is None:
            return self._page("login.html", 401, wrong=True)
        response = RedirectResponse("/", 303)
        response.set_cookie(COOKIE, session, httponly=True, samesite="strict", max_age=_SESSION_SECONDS)
        return response

    def style(self, _request: Request) -> Response:
        """The style sheet."""
        return Response(self._style, media_type="text/css")

    def health(self, _request: Request) -> Response:
        """Whether the console answers."""
        return Response('{"status":"ok"}', media_type="application/json")

    def show_error(self, _request: Request, error: HeadraceError) -> Response:
        """An error, as a page that says what is wrong, where, and what to do."""
        return self._page("error.html", 404 if isinstance(error, CallError) else 503, error=error)

    def show_not_found(self, request: Request, _error: Exception) -> Response:
        """The page for an unknown path."""
        return self._page("error.html", 404, error=CallError(f"page {request.url.path} does not exist"))

    def _page(self, template: str, code: int = 200, **values: Any) -> HTMLResponse:
        text = self._templates.get_template(template).render(
            project=self._settings.project, profile=self._settings.profile_name, **values
        )
        return HTMLResponse(text, code)


def _add_headers(inner: ASGIApp) -> App:
    """Adds the headers of every page to the application's answers."""
    page_headers = [(name.lower().encode(), value.encode()) for name, value in _HEADERS.items()]

    async def outer(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *page_headers]
            await send(message)

        await inner(scope, receive, send_with_headers)

    return outer
