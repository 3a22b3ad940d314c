"""Ray's internals that Headrace uses are where they are listed, and another Ray is refused in one sentence."""

import importlib
import inspect
import tomllib
from functools import reduce
from pathlib import Path

import pytest

from headrace.cluster import internals
from headrace.cluster.internals import INTERNALS, VERSIONS, Internal, check_version
from headrace.kernel.errors import Unavailable

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of importing ray.serve
@pytest.mark.parametrize("internal", INTERNALS, ids=lambda internal: f"{internal.module}.{internal.name}")
def test_an_internal_is_where_it_is_listed(internal: Internal) -> None:
    module = importlib.import_module(internal.module)
    value = reduce(getattr, internal.name.split("."), module)
    if internal.parameters:
        assert tuple(inspect.signature(value).parameters)[: len(internal.parameters)] == internal.parameters


def test_the_versions_are_those_of_the_package() -> None:
    dependencies = tomllib.loads(PYPROJECT.read_text())["project"]["dependencies"]
    (ray,) = [name for name in dependencies if name.startswith("ray[")]
    assert ray.endswith(f">={VERSIONS[0]},<{VERSIONS[1]}")


@pytest.mark.parametrize("installed", ["2.59.1", "2.61.0", "3.0.0rc1"])
def test_another_ray_is_refused_in_one_sentence(installed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check_version()
    monkeypatch.setattr(internals, "version", lambda _: installed)
    with pytest.raises(Unavailable) as caught:
        check_version()
    assert caught.value.what == f"Ray {installed} is installed, and Headrace needs Ray >=2.60,<2.61"
    assert caught.value.remedy == 'pip install "ray>=2.60,<2.61"'
