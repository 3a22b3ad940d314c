from __future__ import annotations

import html
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import msgspec
import pytest
from tests.flows.traced import TracedShop, make_traced_shop

from headrace import log as logs
from headrace.console.app import app
from headrace.console.session import COOKIE, session_of
from headrace.http.serve import HttpServer, serve
from headrace.kernel.ids import new_id
from headrace.kernel.run import Dataset, record_with, run
from headrace.lineage import open as open_lineage
from headrace.serving.prediction import TOPIC

TOKEN = "a-token-that-is-long-enough"
NASTY = "<script>alert('x')</script>\"'&{{ 7*7 }}"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> TracedShop:
    folder: Path = tmp_path_factory.mktemp("console")
    return make_traced_shop(folder)


@pytest.fixture(scope="module")
def served(shop: TracedShop) -> Iterator[HttpServer]:
    with serve(app(shop.settings), "127.0.0.1", 0) as server:
        yield server


def text(served: HttpServer, path: str, status: int = 200) -> str:
    answer = httpx.get(served.url + path, timeout=60)
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


def test_the_overview_shows_topics_tables_and_models(served: HttpServer) -> None:
    rows = cells(text(served, "/"))

    assert ["user_behaviour", "9", "8", "1", "0"] in rows
    assert any(row[:1] == ["product_facts"] for row in rows)
    assert any(row[:1] == ["view_outcomes"] and row[-1] == "never" for row in rows)
    assert any(row[:1] == ["purchase"] and "champion = version 1" in row[2] for row in rows)


def test_runs_and_one_run(served: HttpServer) -> None:
    page = text(served, "/runs")
    assert {row[0] for row in cells(page) if row} >= {
        "ingest user_behaviour",
        "table clean_events",
        "train purchase",
    }
    (only,) = [row for row in cells(text(served, "/runs?job=train%20purchase")) if row]
    assert only[:2] == ["train purchase", "complete"]
    link = re.search(r'href="(/runs/[0-9a-f-]+)"', text(served, "/runs?job=train%20purchase"))
    assert link is not None
    run_page = text(served, link[1])
    assert "purchase@1" in run_page
    assert "user_behaviour" in run_page


def test_a_prediction_shows_why(served: HttpServer, shop: TracedShop) -> None:
    page = text(served, f"/predictions/{shop.prediction.id}")

    assert "every feature recomputed from the raw events equals the served one" in page
    rows = cells(page)
    assert ["user_activity__events_1h", "4", "4", "yes", "4"] in rows
    assert [row[0] for row in rows if len(row) == 5 and row[0].startswith("0:")] == [
        f"0:{offset}" for offset in shop.behind[::-1]
    ]


def test_the_form_leads_to_the_prediction(served: HttpServer, shop: TracedShop) -> None:
    answer = httpx.get(f"{served.url}/predictions", params={"id": f" {shop.prediction.id} "})

    assert (answer.status_code, answer.headers["location"]) == (303, f"/predictions/{shop.prediction.id}")


@pytest.mark.parametrize(
    "path",
    ["/predictions/nonsense", "/predictions?id=../../etc", "/runs/nonsense", "/nowhere", "/models/nobody"],
)
def test_what_is_not_there_is_a_page_that_says_so(served: HttpServer, path: str) -> None:
    page = text(served, path, 404)

    assert "<h1>" in page
    assert "Traceback" not in page


def test_the_models_versions(served: HttpServer) -> None:
    assert ["1", "", "roc_auc 0.81"] in [row[:2] + row[3:4] for row in cells(text(served, "/models/purchase"))]


def test_what_users_wrote_is_escaped_everywhere(served: HttpServer, shop: TracedShop) -> None:
    store = open_lineage(shop.settings)
    with store.recorder() as recorder, record_with(recorder), run(NASTY, [Dataset("file", NASTY)]) as r:
        r.add_facts(said=NASTY)
    store.close()
    nasty = msgspec.structs.replace(
        shop.prediction, id=new_id(), request={**shop.prediction.request, "event_type": NASTY}, arm=NASTY
    )
    log = logs.open(shop.settings.log.url)
    log.append(TOPIC, [msgspec.json.encode(nasty)])
    log.close()

    for path in ("/runs", f"/runs/{r.id}", f"/predictions/{nasty.id}"):
        page = text(served, path)
        assert "alert(" in page
        assert "<script" not in page
        assert "7*7" in page
    assert "<script" not in text(served, "/runs?job=%3Cscript%3E")
    assert "<script" not in text(served, "/%3Cscript%3E", 404)


def test_pages_load_nothing_from_elsewhere_and_run_no_script(served: HttpServer) -> None:
    answer = httpx.get(served.url)

    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "script" not in answer.headers["content-security-policy"]
    assert re.findall(r'(?:src|href|action)="(?!/)[^"]*"', answer.text) == []
    assert httpx.get(f"{served.url}/style.css").headers["content-type"].startswith("text/css")


def test_a_foreign_host_name_is_refused(served: HttpServer) -> None:
    assert httpx.get(served.url, headers={"Host": "evil.example"}).status_code == 421


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
