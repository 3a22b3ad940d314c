"""Tags of tables: set, listed, read and removed by a user, and kept by maintenance."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

import headrace
from headrace.api import OpenProject
from headrace.config.settings import make_settings
from headrace.flows.project.table_tags import list_versions, tag_table, untag_table
from headrace.kernel.errors import CallError
from headrace.lake import maintain
from headrace.workspace import Workspace

FRAMES = [
    pl.DataFrame({"customer": ["a", "b"], "age": [30, 40]}),
    pl.DataFrame({"customer": ["a", "c"], "age": [31, 50], "plan": ["flex", None]}),
    pl.DataFrame({"customer": ["d"], "age": [60], "plan": ["flex"], "risk": [0.5]}),
]


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").write_text("")
    (tmp_path / "headrace.toml").write_text('[project]\nname = "shop"\n')
    with Workspace(make_settings(tmp_path, "shop")) as workspace:
        for frame in FRAMES:
            rows = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
            workspace.lake.ensure("customers", rows.schema, exact=True).overwrite(rows)
        yield workspace


@pytest.fixture
def project(workspace: Workspace) -> OpenProject:
    return headrace.project(workspace.settings.root)


def test_any_version_is_read_by_id_by_tag_and_by_time(project: OpenProject) -> None:
    versions = project.table_versions("customers")
    assert [version.rows for version in versions] == [2, 2, 1]
    for number, (version, frame) in enumerate(zip(versions, FRAMES, strict=True), 1):
        tagged = project.tag_table("customers", f"v{number}", at=version.snapshot)
        assert tagged.snapshot == version.snapshot
        for at in (version.snapshot, f"v{number}", version.at):
            assert_frame_equal(project.table("customers", at=at).to_polars(), frame, check_row_order=False)
    assert_frame_equal(project.table("customers").to_polars(), FRAMES[-1])
    assert [version.tags for version in project.table_versions("customers")] == [["v1"], ["v2"], ["v3"]]


def test_maintenance_keeps_tagged_versions(workspace: Workspace, project: OpenProject) -> None:
    first, second, _ = project.table_versions("customers")
    tag_table(workspace, "customers", "v1", first.snapshot)
    maintain(workspace.lake.table("customers"), older_than=timedelta(seconds=-1))
    assert_frame_equal(project.table("customers", at="v1").to_polars(), FRAMES[0], check_row_order=False)
    with pytest.raises(CallError, match=f"snapshot {second.snapshot} does not exist"):
        project.table("customers", at=second.snapshot)
    untag_table(workspace, "customers", "v1")
    maintain(workspace.lake.table("customers"), older_than=timedelta(seconds=-1))
    with pytest.raises(CallError, match="tag 'v1' does not exist"):
        project.table("customers", at="v1")


def test_a_tag_does_not_move(workspace: Workspace) -> None:
    first, _, third = list_versions(workspace, "customers")
    tag_table(workspace, "customers", "v1", first.snapshot)
    with pytest.raises(CallError, match=f"tag 'v1' names another snapshot: {first.snapshot}"):
        tag_table(workspace, "customers", "v1")
    untag_table(workspace, "customers", "v1")
    assert tag_table(workspace, "customers", "v1").id == third.snapshot
    assert tag_table(workspace, "customers", "again", "v1").id == third.snapshot


@pytest.mark.parametrize(
    "tag",
    [
        "",
        "main",
        "a b",
        "-v1",
        "v/1",
        "v1\n",
        "headrace-x",
        "version.churn.1",
        "training.1",
        "input-of-x-1",
        "é",
    ],
)
def test_a_tag_that_is_not_the_users_is_refused(workspace: Workspace, tag: str) -> None:
    with pytest.raises(CallError, match="is not a valid tag"):
        tag_table(workspace, "customers", tag)
    with pytest.raises(CallError, match="is not a valid tag"):
        untag_table(workspace, "customers", tag)


def test_an_unknown_table_tag_or_snapshot_is_named(workspace: Workspace, project: OpenProject) -> None:
    for call in (lambda: project.table("people", at="v1"), lambda: project.tag_table("people", "v1")):
        with pytest.raises(CallError, match="table 'people' does not exist"):
            call()
    with pytest.raises(CallError, match="tag 'v9' does not exist"):
        untag_table(workspace, "customers", "v9")
    with pytest.raises(CallError, match="snapshot 5 does not exist"):
        project.tag_table("customers", "v1", at=5)
    workspace.lake.ensure("empty", FRAMES[0].to_arrow(compat_level=pl.CompatLevel.oldest()).schema)
    with pytest.raises(CallError, match="table 'empty' has no rows yet"):
        tag_table(workspace, "empty", "v1")
