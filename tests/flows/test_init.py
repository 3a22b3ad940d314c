"""The command `init`: valid and invalid names of a new project."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from headrace.config.settings import load_settings
from headrace.flows.build import build
from headrace.flows.project.init import examples, init
from headrace.kernel.errors import CallError
from headrace.projects.project import load_project
from headrace.workspace import Workspace


@pytest.mark.parametrize("name", ["class", "json", "polars", "Feast", "headrace"])
def test_a_package_that_would_hide_another_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(CallError, match="is not a valid project name"):
        init(tmp_path / name)
    assert not (tmp_path / name).exists()


def test_a_place_that_is_taken_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "clicks"
    file.touch()
    with pytest.raises(CallError, match="a file of this name exists"):
        init(file)
    with pytest.raises(CallError, match="the folder is not empty") as refused:
        init(tmp_path)
    assert "headrace.toml" in str(refused.value.remedy)


def test_a_folder_names_the_package(tmp_path: Path) -> None:
    assert init(tmp_path / "my-Shop").files > 0
    assert (tmp_path / "my-Shop" / "my_shop" / "__init__.py").is_file()


def test_a_profile_that_only_other_projects_have_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_PROFILE", "prod")
    assert init(tmp_path / "my-shop").name == "my_shop"
    assert init(tmp_path / "other", example="minimal").name == "payments"


def test_a_folder_is_not_in_the_repository_that_its_path_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "repository"
    (repository / ".git").mkdir(parents=True)
    monkeypatch.chdir(repository)
    assert init(Path("../clicks_outside")).folder == tmp_path / "clicks_outside"
    assert load_settings(Path("../clicks_outside")).root == tmp_path / "clicks_outside"


def test_an_empty_project_says_what_to_write_first(tmp_path: Path) -> None:
    # a name that no other test imports: init refuses the name of a package that Python finds
    project = init(tmp_path / "turnstile")
    assert project.name == "turnstile"
    first = project.folder / "turnstile" / "events.py"
    declared = first.read_text().replace("\n# ", "\n").replace("\n#", "\n")
    first.write_text(declared)  # the example in it, without its comment signs, is a valid contract
    assert list(load_project(load_settings(project.folder)).contracts) == ["clicks"]


def test_an_empty_project_has_nothing_to_build(tmp_path: Path) -> None:
    project = init(tmp_path / "lighthouse")
    with Workspace(load_settings(project.folder)) as workspace:
        report = build(workspace)
        assert report.nothing
        assert report.is_empty
        assert build(workspace).is_empty  # also where nothing has changed since


@pytest.mark.parametrize("example", examples())
def test_the_page_of_a_new_project_has_no_link_that_leaves_it(tmp_path: Path, example: str) -> None:
    """An example's page links to the guide of the checkout; the pages of a copy say where that is."""
    page = examples()[example] / "README.md"
    pages = re.findall(r"\(\.\./\.\./(docs/[^)]+)\)", page.read_text())
    text = (init(tmp_path / "copy", example).folder / "README.md").read_text()
    assert "](../" not in text
    assert [name for name in pages if f"(Headrace's {name})" not in text] == []
    assert len(text.splitlines()) == len(page.read_text().splitlines())
