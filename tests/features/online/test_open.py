"""The address of the online store chooses its module; a missing package is named with its extra."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from headrace.config.settings import make_settings
from headrace.features.online.store import filled_views
from headrace.features.online.store import open as open_store
from headrace.kernel.errors import ProjectError, Unavailable


@pytest.mark.parametrize(
    ("address", "module", "package", "extra"),
    [
        ("postgresql://host/db", "postgres", "psycopg", "postgres"),
        ("redis://host/0", "redis", "hiredis", "redis"),
        ("unix:///socket?db=0", "redis", "redis", "redis"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, module: str, package: str, extra: str
) -> None:
    for name in (f"headrace.features.online.{module}", f"headrace.kernel.{module}"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, package, None)  # makes its import fail
    with pytest.raises(Unavailable) as caught:
        open_store(make_settings(tmp_path, "shop", values={"online": address}))
    assert f"needs the package {package}, which is not installed" in caught.value.what
    assert caught.value.remedy == f"Install it: pip install 'headrace[{extra}]'"


def test_another_address_is_refused_with_the_schemes_that_work(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match=r"'mysql://joe:\*\*\*@host/db' is not the address") as caught:
        open_store(make_settings(tmp_path, "shop", values={"online": "mysql://joe:secret@host/db"}))
    assert caught.value.remedy == (
        "Use sqlite, or an address whose scheme is one of: sqlite, postgresql, postgres, redis, rediss, unix."
    )


def test_a_file_of_another_project_is_refused(tmp_path: Path) -> None:
    """Equal views of two projects are one view in a file, which would have the values of either."""
    values = {"online": f"sqlite://{tmp_path}/shared.db"}
    open_store(make_settings(tmp_path, "shop", values=values)).close()
    open_store(make_settings(tmp_path, "shop", values=values)).close()
    for use in (open_store, filled_views):
        with pytest.raises(ProjectError, match=r"shared\.db belongs to project 'shop', not to 'bank'"):
            use(make_settings(tmp_path, "bank", values=values))
    open_store(make_settings(tmp_path, "shop")).close()
    open_store(make_settings(tmp_path, "bank")).close()  # the project in this folder was renamed
