"""Fixtures: a small project with real bundles."""

from pathlib import Path

import pytest
from tests.serving.small_project import (
    fit_booster,
    make_project,
    plan_of,
    put_bundle,
    put_features,
    put_release,
)

from headrace.serving.metrics import Metrics
from headrace.serving.predictor import SpoolingPredictor
from headrace.serving.release import Arm

# Ray's own modules use what pydantic deprecates.
RAY_WARNINGS = "ignore:Using extra keyword arguments on `Field`:pydantic.warnings.PydanticDeprecatedSince20"


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings(RAY_WARNINGS))


@pytest.fixture(scope="session")
def boosters():
    return {1: fit_booster(1), 2: fit_booster(-1)}


@pytest.fixture
def project(tmp_path, boosters):
    """Settings of a project with version 1 (many views: yes) and version 2 (few views: yes); 1 is released."""
    settings = make_project(tmp_path / "project")
    for version in (1, 2):
        put_bundle(settings, boosters, version, plan_of())
    put_features(settings, plan_of(), {7: (9.5, 190), 8: (20.0, 10)})
    put_release(settings, Arm(1))
    return settings


@pytest.fixture
def metrics():
    return Metrics()


@pytest.fixture
def predictor(project, metrics):
    predictor = SpoolingPredictor(project.place("serving", "spool"), metrics)
    yield predictor
    predictor.close()
