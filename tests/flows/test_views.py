"""Dropping the views of the online store that no release names."""

from pathlib import Path

import pytest
from msgspec.structs import replace
from tests.serving.small_project import FACTS, make_project, plan_of, put_bundle, put_release

from headrace.features.applied.registry import APPLIED, REGISTRY, folder, mark_of
from headrace.features.plan import encode_plan
from headrace.flows.build import hold_build_lock
from headrace.flows.build.pointers import FEATURES, Pointers, write_if_changed
from headrace.flows.models.views import drop_unused_views
from headrace.kernel.files import write_file
from headrace.serving.release import Arm
from headrace.workspace import Workspace


def plan_with(ttl):
    """A plan of a view that differs from others by its ttl."""
    return replace(plan_of(), views=(replace(FACTS, ttl=ttl),))


@pytest.fixture
def settings(tmp_path):
    """A project whose last build made the plan of ttl 9, with version n of a model of ttl n."""
    settings = make_project(tmp_path / "project")
    for version in (1, 2, 3, 4):
        prepare(settings, plan_with(version))
        put_bundle(settings, {1: b"", 2: b""}, version, plan_with(version), slope=1)
    prepare(settings, plan_with(9))
    write_build(settings, plan_with(9), {})
    return settings


def prepare(settings, plan):
    with Workspace(settings) as workspace:
        workspace.online.prepare(plan)


def write_build(settings, plan, declared):
    """Writes what a build does of its plans and its declared views."""
    pointers = Pointers(settings.root)
    write_if_changed(settings.root / Pointers.path("plans", "purchase"), encode_plan(plan))
    pointers.write(FEATURES, {"plans": {"purchase": plan.digest}, "views": declared})
    place: Path = folder(settings)
    place.mkdir(parents=True, exist_ok=True)
    write_file(place / REGISTRY, "registry")
    write_file(place / APPLIED, mark_of(settings, "declared"))


def stored(settings):
    with Workspace(settings) as workspace:
        return sorted(view.ttl for view in workspace.online.views())


def drop(settings):
    with Workspace(settings) as workspace:
        ttls = {plan_with(ttl).views[0].digest: ttl for ttl in (1, 2, 3, 4, 9)}
        return sorted(ttls.get(digest, digest) for digest in drop_unused_views(workspace))


def test_views_that_no_release_and_no_build_names_are_dropped(settings):
    put_release(settings, Arm(1))
    put_release(settings, Arm(2))
    put_release(settings, Arm(3), Arm(4, 0.0, shadow=True, name="shadow"))
    assert drop(settings) == [1]
    assert stored(settings) == [2, 3, 4, 9]  # 2: a rollback restores it
    assert drop(settings) == []


def test_views_of_a_model_that_was_never_released_are_dropped_unless_it_was_built_last(settings):
    assert drop(settings) == [1, 2, 3, 4]
    assert stored(settings) == [9]


def test_a_view_that_is_declared_to_feast_is_kept(settings):
    view = plan_with(3).views[0]
    write_build(settings, plan_with(9), {"facts": view.digest})
    assert drop(settings) == [1, 2, 4]


def test_nothing_is_dropped_during_a_build(settings):
    with hold_build_lock(settings):
        assert drop(settings) == []
    assert stored(settings) == [1, 2, 3, 4, 9]


def test_nothing_is_dropped_while_feasts_registry_is_not_the_builds(settings):
    write_file(folder(settings) / REGISTRY, "stock Feast wrote it")
    assert drop(settings) == []
    assert stored(settings) == [1, 2, 3, 4, 9]


def test_nothing_is_dropped_before_the_first_build(settings):
    (settings.root / FEATURES).unlink()
    assert drop(settings) == []
    assert stored(settings) == [1, 2, 3, 4, 9]
