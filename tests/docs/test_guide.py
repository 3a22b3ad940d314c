"""The pages of the guide, followed one after the other in the project of the example that they stand on."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from services import clients
from tests.cli.terminal import render
from tests.docs.blocks import PORT_VARIABLES, Reader
from tests.e2e.demos import EXAMPLES, run_commands

GUIDE = Path(__file__).parents[2] / "docs" / "guide"
# The first makes the second version that others release.
PAGES = sorted(GUIDE.glob("*.md"), key=lambda page: (page.stem != "canary", page.stem))
METRIC = re.compile(r"`(headrace_\w+_(?:total|seconds|bytes|behind))`")
SCREEN = "build.screen"
TERMINAL = Path(__file__).parents[1] / "cli" / "terminal.py"
LESS_OF_THE_SHOP = {
    "python generate.py": "sed -i.bak s/n_trials=12/n_trials=2/ shop/models.py"
    " && python generate.py --events 40000",
    "headrace build": f"python {TERMINAL} {SCREEN} headrace build",
}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """A reader who has followed the shop's README, with fewer events and trials, and has the shop running."""
    reader = Reader(tmp_path_factory.mktemp("guide"), LESS_OF_THE_SHOP, **dict.fromkeys(PORT_VARIABLES, "0"))
    try:
        run_commands(reader, EXAMPLES / "shop" / "README.md")
        yield reader
    finally:
        code = reader.stop()
    assert code == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_of_the_guide_works_as_it_is_written(shop: Reader, page: Path) -> None:
    shop.follow(page)


def test_tritons_client_asks_as_the_page_on_serving_shows(shop: Reader) -> None:
    address = shop.url(0).removeprefix("http://")
    reader = Reader(shop.folder, addresses={"localhost:8100": address}, python=clients.python())
    try:
        reader.follow(GUIDE / "serving.md", "triton")
    finally:
        reader.stop()


def test_each_metric_of_the_guide_is_served(shop: Reader) -> None:
    named = {name for page in PAGES for name in METRIC.findall(page.read_text())}
    with urllib.request.urlopen(shop.url(0) + "/metrics") as answer:
        served = set(re.findall(r"^# TYPE (\w+) ", answer.read().decode(), re.MULTILINE))
    assert named - served == set()
    assert {name for name in served if name.startswith("headrace_")} - named == set()


def test_a_build_shows_on_a_terminal_what_it_does(shop: Reader) -> None:
    written = (shop.folder / SCREEN).read_bytes().decode()
    days = re.search(r"(\d+) of \1 days", written)  # events that end now lie on one day more or less
    assert days is not None
    for shown in (" begins", days[0], "trials: 1 of 2 done", "trials: 2 of 2 done"):
        assert shown in written
        assert shown not in "\n".join(render(written))
