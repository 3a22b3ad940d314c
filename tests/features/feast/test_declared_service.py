"""A feature service as a project opens it: Feast's object, which shows its features."""

from __future__ import annotations

import copy
from collections.abc import Callable
from datetime import UTC, datetime

import pandas as pd
from feast import FeatureService, FeatureStore

from headrace.api.models import list_feature_services
from headrace.features.feast import apply
from headrace.kernel.html import LIMIT
from headrace.projects.project import Project

LISTED = "features=[activity, facts, moment]"


def test_a_service_shows_its_features(small: Callable[..., Project]) -> None:
    project = small((LISTED, f"{LISTED}, description='<b>'"))
    services = list_feature_services(project.settings)
    service = services["bought"]
    assert repr(service) == "<feature service bought: 4 features of activity, facts, moment>"
    html = service._repr_html_()
    for text in (
        "<b>Feature service bought</b>",
        "<td>activity</td><td>spent</td><td>float64</td>",
        "<td>moment</td><td>ratio</td><td>float64</td>",
        "<p>&lt;b&gt;</p>",
    ):
        assert text in html
    assert "<td>clicks, mean_price</td>" in services._repr_html_()
    assert isinstance(service, FeatureService)
    assert service == copy.copy(service)


def test_a_service_shows_the_features_that_it_names_by_text(small: Callable[..., Project]) -> None:
    project = small((LISTED, 'features=["activity:spent", facts[["clicks"]]]'))
    services = list_feature_services(project.settings)
    assert services["bought"].features_by_view == {
        "activity": [("spent", "float64")],
        "facts": [("clicks", "int64")],
    }
    assert "<td>bought</td><td>activity</td><td>spent</td>" in services._repr_html_()


def test_a_service_that_cannot_be_compiled_shows_why(small: Callable[..., Project]) -> None:
    services = list_feature_services(small((LISTED, 'features=["activity:spnt"]')).settings)
    problem = "'activity:spnt' does not name a feature of 'activity'"
    assert repr(services["bought"]) == f"<feature service bought: {problem}>"
    for html in (services._repr_html_(), services["bought"]._repr_html_()):
        assert "&#x27;activity:spnt&#x27; does not name a feature" in html


def test_a_large_service_has_room(small: Callable[..., Project]) -> None:
    names = [f"clicks_{number:04}_{'x' * 60}" for number in range(2_000)]
    fields = ", ".join(f'Field(name="{name}", dtype=Int64)' for name in names)
    source = "TableSource(item_facts)"
    declared = f"""
many = FeatureView(name="many", entities=[item], source={source}, schema=[{fields}])
large = FeatureService(name="large", features=[many])
"""
    project = small(("TIMES = 1.0", f"TIMES = 1.0{declared}"))
    service = list_feature_services(project.settings)["large"]
    html = service._repr_html_()
    assert len(html.encode()) <= LIMIT
    assert "more rows</p>" in html
    assert repr(service) == "<feature service large: 2,000 features of many>"


def test_feast_takes_an_opened_service(small: Callable[..., Project]) -> None:
    project = small()
    store = FeatureStore(repo_path=str(apply(project).folder))
    service = list_feature_services(project.settings)["bought"]
    labels = {"user_id": [1], "item": ["a"], "price": [1.0], "event_timestamp": [datetime.now(UTC)]}
    job = store.get_historical_features(pd.DataFrame(labels), service)
    assert job.metadata is not None
    store.apply(service)
    assert store.get_feature_service("bought") == service
