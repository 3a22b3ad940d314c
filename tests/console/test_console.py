"""The console over HTTP: its pages, escaping, headers and sign-in."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from shutil import copytree

import httpx
import msgspec
import pytest
from tests.flows.traced import TracedShop, make_traced_shop
from tests.tiny import edit, write

from headrace import log as logs
from headrace.config.settings import load_settings
from headrace.console.app import app
from headrace.console.session import COOKIE, session_of
from headrace.flows.build import build
from headrace.flows.project.init import init
from headrace.http.serve import HttpServer, serve
from headrace.kernel.errors import Refused
from headrace.kernel.ids import new_id
from headrace.kernel.run import Dataset, record_with, run
from headrace.lineage import open as open_lineage
from headrace.projects.schedules import ScheduleRun, ScheduleState, write_schedule_states
from headrace.serving.prediction import TOPIC
from headrace.workspace import Workspace

TOKEN = "a-token-that-is-long-enough"
MARKUP = "<script>alert('x')</script>\"'&{{ 7*7 }}"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> TracedShop:
    folder: Path = tmp_path_factory.mktemp("console")
    return make_traced_shop(folder)


@pytest.fixture(scope="module")
def server(shop: TracedShop) -> Iterator[HttpServer]:
    with serve(app(shop.settings), "127.0.0.1", 0) as server:
        yield server


def page_text(server: HttpServer, path: str, status: int = 200) -> str:
    answer = httpx.get(server.url + path, timeout=60)
    assert answer.status_code == status, answer.text
    return answer.text


def cells(page: str) -> list[list[str]]:
    """The rows of all tables, as the texts of their cells."""
    rows = re.findall(r"<tr>(.*?)</tr>", page, re.DOTALL)
    return [
        [
            " ".join(html.unescape(re.sub(r"<[^>]+>", " ", c)).split())
            for c in re.findall(r"<td.*?</td>", r, re.DOTALL)
        ]
        for r in rows
    ]


def test_the_overview_of_a_new_project_says_what_is_next(tmp_path: Path) -> None:
    project = init(tmp_path / "lantern").folder
    with serve(app(load_settings(project, "local")), "127.0.0.1", 0) as server:
        page = page_text(server, "/")
    assert "say in lantern/events.py what an event is" in page
    assert "Everything is up to date" not in page


def test_the_overview_shows_topics_tables_and_models(server: HttpServer) -> None:
    rows = cells(page_text(server, "/"))

    assert ["user_behaviour", "9", "8", "1", "0"] in rows
    assert any(row[:1] == ["product_facts"] for row in rows)
    assert any(row[:1] == ["view_outcomes"] and row[-1] == "never" for row in rows)
    assert any(row[:1] == ["purchase"] and "champion = version 1" in row[2] for row in rows)


def test_what_a_catalog_that_cannot_be_read_holds_is_unknown(shop: TracedShop, tmp_path: Path) -> None:
    copytree(shop.settings.root, tmp_path / "copy")
    settings = load_settings(tmp_path / "copy", shop.settings.profile_name)
    settings.place("lake", "catalog.db").write_text("no database, " * 1000)
    with serve(app(settings), "127.0.0.1", 0) as server:
        page = page_text(server, "/")
    assert "the catalog is damaged" in html.unescape(page)
    rows = cells(page)
    assert ["user_behaviour", "9", "unknown", "unknown", "unknown"] in rows
    assert ["view_outcomes", "", "unknown", "unknown"] in rows


def test_the_graph_of_the_last_build_is_drawn_in_the_page(server: HttpServer, tmp_path: Path) -> None:
    assert "headrace build" in page_text(server, "/graph", 404)  # this project was never built
    settings = load_settings(write(tmp_path / "tiny", AUDITED), "local")
    with Workspace(settings) as workspace:
        build(workspace)
    with serve(app(settings), "127.0.0.1", 0) as tiny:
        page = page_text(tiny, "/graph")
    assert "<svg" in page
    assert "<title>table cheap 2 rows" in page
    assert "<style" not in page  # the content policy would not apply it


def test_schedules_are_shown_with_their_runs(tmp_path: Path) -> None:
    root = write(tmp_path / "project", "")
    with (root / "headrace.toml").open("a") as file:
        file.write('[schedule.nightly]\ncron="0 4 * * *"\nbuild=["sales"]\n[schedule.hourly]\nevery="1h"\n')
    settings = load_settings(root)
    at = datetime(2026, 4, 3, 4, tzinfo=UTC)
    ran = ScheduleRun(at, 1, at + timedelta(seconds=9), "failed", f"exit 1: {MARKUP}")
    runs = (ran, ScheduleRun(at + timedelta(minutes=1), 2))
    write_schedule_states(settings, {"nightly": ScheduleState("cron 0 4 * * *", at, runs=runs)})
    with serve(app(settings), "127.0.0.1", 0) as server:
        page = page_text(server, "/schedules")
        assert [row for row in cells(page) if row] == [
            ["2026-04-03 04:01:00", "running", "", "2", ""],
            ["2026-04-03 04:00:00", "failed", "9.00 s", "1", f"exit 1: {MARKUP}"],
            ["It has not run yet."],
        ]
        assert "builds sales; next 2026-04-04 04:00:00 UTC" in page
        assert "builds everything; next " in page
        assert "<script>" not in page
    (root / "headrace.toml").write_text('[project]\nname = "tiny"\n')
    with serve(app(load_settings(root)), "127.0.0.1", 0) as server:
        assert "headrace.toml has no [schedule.NAME]" in page_text(server, "/schedules")


def test_runs_are_listed_and_each_has_a_page(server: HttpServer) -> None:
    page = page_text(server, "/runs")
    assert {row[0] for row in cells(page) if row} >= {
        "ingest user_behaviour",
        "table clean_events",
        "train purchase",
    }
    (training,) = [row for row in cells(page_text(server, "/runs?job=train%20purchase")) if row]
    assert training[:2] == ["train purchase", "complete"]
    link = re.search(r'href="(/runs/[0-9a-f-]+)"', page_text(server, "/runs?job=train%20purchase"))
    assert link is not None
    run_page = page_text(server, link[1])
    assert "purchase@1" in run_page
    assert "user_behaviour" in run_page


def test_a_prediction_shows_why(server: HttpServer, shop: TracedShop) -> None:
    page = page_text(server, f"/predictions/{shop.prediction.id}")

    assert "every feature recomputed from the raw events equals the served one" in page
    rows = cells(page)
    assert ["user_activity__events_1h", "4", "4", "yes", "4"] in rows
    assert [row[0] for row in rows if len(row) == 5 and row[0].startswith("0:")] == [
        f"0:{offset}" for offset in shop.offsets[::-1]
    ]


def test_the_search_form_redirects_to_the_prediction(server: HttpServer, shop: TracedShop) -> None:
    answer = httpx.get(f"{server.url}/predictions", params={"id": f" {shop.prediction.id} "})

    assert (answer.status_code, answer.headers["location"]) == (303, f"/predictions/{shop.prediction.id}")


@pytest.mark.parametrize(
    "path",
    [
        "/predictions/nonsense",
        "/predictions?id=../../etc",
        "/runs/nonsense",
        "/nowhere",
        "/models/nobody",
        "/lineage/%3Cscript%3E",
    ],
)
def test_an_unknown_address_is_a_page_with_status_404(server: HttpServer, path: str) -> None:
    page = page_text(server, path, 404)

    assert "<h1>" in page
    assert "Traceback" not in page


def test_a_model_page_lists_its_versions(server: HttpServer) -> None:
    assert ["1", "", "roc_auc 0.81"] in [
        row[:2] + row[3:4] for row in cells(page_text(server, "/models/purchase"))
    ]


def test_lineage_leads_from_a_version_to_its_topic_with_its_metrics(server: HttpServer) -> None:
    assert 'href="/lineage/purchase%401"' in page_text(server, "/models/purchase")
    page = page_text(server, "/lineage/purchase@1")
    items = [
        " ".join(html.unescape(re.sub(r"<[^>]+>", " ", item)).split())
        for item in re.findall(r"<li>(.*?)(?=<li>|</ul>)", page, re.DOTALL)
    ]
    assert items[0].startswith("model purchase@1 by train purchase")
    assert any(item.startswith("topic user_behaviour") for item in items)
    assert 'href="/lineage/product_facts"' in page_text(server, "/")
    assert "table clean_events" in re.sub(r"<[^>]+>", "", page_text(server, "/lineage/product_facts"))
    page_text(server, "/lineage/nothing", 404)


def test_text_of_users_is_escaped_on_every_page(server: HttpServer, shop: TracedShop) -> None:
    store = open_lineage(shop.settings)
    with store.recorder() as recorder, record_with(recorder), run(MARKUP, [Dataset("file", MARKUP)]) as r:
        r.add_facts(note=MARKUP)
    store.close()
    hostile_prediction = msgspec.structs.replace(
        shop.prediction, id=new_id(), request={**shop.prediction.request, "event_type": MARKUP}, arm=MARKUP
    )
    log = logs.open(shop.settings.log.url)
    log.append(TOPIC, [msgspec.json.encode(hostile_prediction)])
    log.close()

    for path in ("/runs", f"/runs/{r.id}", f"/predictions/{hostile_prediction.id}"):
        page = page_text(server, path)
        assert "alert(" in page
        assert "<script" not in page
        assert "7*7" in page
    assert "<script" not in page_text(server, "/runs?job=%3Cscript%3E")
    assert "<script" not in page_text(server, "/%3Cscript%3E", 404)


def test_pages_load_nothing_from_elsewhere_and_run_no_script(server: HttpServer) -> None:
    answer = httpx.get(server.url)

    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "script" not in answer.headers["content-security-policy"]
    assert re.findall(r'(?:src|href|action)="(?!/)[^"]*"', answer.text) == []
    assert httpx.get(f"{server.url}/style.css").headers["content-type"].startswith("text/css")


def test_a_foreign_host_name_is_refused(server: HttpServer) -> None:
    assert httpx.get(server.url, headers={"Host": "evil.example"}).status_code == 421


def test_with_a_token_a_browser_signs_in_once(shop: TracedShop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_TOKEN", TOKEN)
    with serve(app(shop.settings), "127.0.0.1", 0) as server, httpx.Client(base_url=server.url) as browser:
        assert browser.get("/").headers["location"] == "/login"
        assert browser.head("/").headers["location"] == "/login"
        assert (browser.head("/login").status_code, browser.head("/login").content) == (200, b"")
        assert browser.get("/login").status_code == 200
        assert browser.post("/login", data={"token": TOKEN + "x"}).status_code == 401
        assert browser.get("/", headers={"Cookie": f"{COOKIE}={TOKEN}"}).status_code == 303
        signed_in = browser.post("/login", data={"token": TOKEN})
        assert (signed_in.status_code, signed_in.headers["location"]) == (303, "/")
        cookie = signed_in.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        assert TOKEN not in cookie
        assert browser.cookies[COOKIE] == session_of(TOKEN)
        assert browser.get("/").status_code == 200
        assert httpx.get(server.url, headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
        assert httpx.get(server.url, headers={"Authorization": "Bearer nonsense-nonsense"}).status_code == 401


AUDITED = """
import dataframely as dy
from headrace import satisfies, source, table

class Cheap(dy.Schema):
    price = dy.Int64(max=3)

@table(reads=source("files", "data/prices.csv"))
def prices(rows):
    return rows

@table(reads=prices, audits=[satisfies(Cheap)])
def cheap(prices):
    return prices
"""


def test_the_page_of_a_table_shows_its_audit_and_the_rows_that_failed(tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path / "project", AUDITED))

    def run_build() -> None:
        with Workspace(settings) as workspace:
            build(workspace)

    run_build()
    quoted = '"' + MARKUP.replace('"', '""') + '"'
    with serve(app(settings), "127.0.0.1", 0) as server:
        passed = page_text(server, "/lineage/cheap")
        (settings.root / "data" / "prices.csv").write_text(f"price,note\n1,\n9,{quoted}\n")
        with pytest.raises(Refused):
            run_build()
        failed, overview = page_text(server, "/lineage/cheap"), page_text(server, "/")
        edit(settings.root, (", audits=[satisfies(Cheap)]", ""))
        edited = page_text(server, "/lineage/cheap")
        run_build()
        removed = page_text(server, "/lineage/cheap")
    assert ["satisfies Cheap", "error", "passed", ""] in cells(passed)
    assert "published" in passed
    assert "refused; readers see the rows of the build before" in failed
    rows = cells(failed)
    assert any(row[:3] == ["satisfies Cheap", "error", "failed"] and "1 " in row[3] for row in rows)
    assert any(row[:2] == ["9", MARKUP] for row in rows)
    assert "<script>" not in failed
    outdated = "The project's code was edited since: these are the audits of the last build."
    shown = {"passed": passed, "failed": failed, "edited": edited, "removed": removed}
    assert [name for name, page in shown.items() if outdated in html.unescape(page)] == ["edited"]
    assert ["satisfies Cheap" in page for page in (edited, removed)] == [True, False]
    waiting = "Readers do not see its newest rows yet: table-cheap failed: the audit failed"
    assert any(row[0].startswith(waiting) for row in cells(overview) if row)


def test_a_table_whose_first_rows_are_refused_has_a_page(tmp_path: Path) -> None:
    root = write(tmp_path / "project", AUDITED)
    (root / "data" / "prices.csv").write_bytes(b"price,note\n9,a\x01\x1b[31mb\n")
    settings = load_settings(root)
    with Workspace(settings) as workspace, pytest.raises(Refused):
        build(workspace)
    with serve(app(settings), "127.0.0.1", 0) as server:
        page, overview = page_text(server, "/lineage/cheap"), page_text(server, "/")
    assert any(row[:2] == ["9", r"a\x01\x1b[31mb"] for row in cells(page))
    assert "It has not been published yet." in page
    assert "refused; readers see no rows yet" in page
    assert 'href="/lineage/cheap"' in overview
    assert any(
        row and row[0].startswith("An audit refused its newest rows: satisfies") for row in cells(overview)
    )
