"""The list of foreign internals is true; another version of a package is refused in one sentence."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from itertools import chain
from pathlib import Path

import pytest

from headrace.kernel import foreign
from headrace.kernel.errors import Unavailable
from headrace.kernel.foreign import FOREIGN, check_version

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("distribution", FOREIGN)
def test_bounds_are_those_of_the_package_and_what_is_listed_exists(distribution: str) -> None:
    package = FOREIGN[distribution]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    dependencies = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    bounds = [
        re.sub(r"^[\w-]+(\[[^]]*])?", "", line)
        for line in dependencies
        if re.match(rf"{distribution}\b(?!-)", line)
    ]
    assert bounds == [f">={package.first},<{package.beyond}"]
    assert all(importlib.util.find_spec(user) for user in package.users)
    assert (ROOT / package.test).is_file()


@pytest.mark.parametrize(
    ("distribution", "installed", "message"),
    [
        ("ray", "2.59.1", "Ray 2.59.1 is installed, and Headrace needs Ray >=2.60,<2.61"),
        ("ray", "2.61.0", "Ray 2.61.0 is installed, and Headrace needs Ray >=2.60,<2.61"),
        ("feast", "1.0.0rc1", "Feast 1.0.0rc1 is installed, and Headrace needs Feast >=0.67,<0.68"),
        ("mlflow", "4.0.0", "MLflow 4.0.0 is installed, and Headrace needs MLflow >=3.17,<4"),
    ],
)
def test_another_version_is_refused_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, distribution: str, installed: str, message: str
) -> None:
    check_version(distribution)
    monkeypatch.setattr(foreign, "version", lambda _: installed)
    with pytest.raises(Unavailable) as caught:
        check_version(distribution)
    assert caught.value.what == message
    assert caught.value.remedy == f'pip install "{distribution}{message.rpartition(" ")[2]}"'
