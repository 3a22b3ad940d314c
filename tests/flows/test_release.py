"""release and rollback: arms as they are written, and aliases that follow."""

import pytest
from tests.serving.small import make_project, plan_of

from headrace import log as logs
from headrace import registry as registries
from headrace.features.plan import encode_plan
from headrace.flows.release import GATE, Moved, moved_aliases, parse_arm, release, rollback
from headrace.kernel.errors import CallError, Refused
from headrace.serving import release as releases


@pytest.mark.parametrize(
    ("text", "arm"),
    [
        ("champion=3", ("champion", 3, None)),
        ("challenger=4:0.1", ("challenger", 4, 0.1)),
        ("shadow=5", ("shadow", 5, None)),
    ],
)
def test_an_arm_is_read(text, arm):
    assert parse_arm(text) == arm


@pytest.mark.parametrize(
    "text", ["champion", "champion=", "champion=0", "champion=x", "=3", "c=3:", "c=3:1.2.3", "shadow=5:0.5"]
)
def test_what_is_no_arm_is_refused(text):
    with pytest.raises(CallError):
        parse_arm(text)


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """A project with three versions of model purchase in its registry; the gate refused the third."""
    made = make_project(tmp_path_factory.mktemp("release") / "project")
    registry = registries.open(made)
    for version, gate in ((1, "passed"), (2, "passed"), (3, "refused")):
        bundle = tmp_path_factory.mktemp("bundle")
        (bundle / "plan.json").write_bytes(encode_plan(plan_of()))
        (bundle / "model").mkdir()
        (bundle / "model" / "model.ubj").write_bytes(b"%d" % version)
        tags = {GATE: gate}
        assert registry.register("purchase", bundle, metrics={}, params={}, tags=tags) == version
    return made


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_releases_set_the_aliases_and_a_moved_one_is_told(settings):
    with pytest.raises(CallError, match="no champion yet"):
        release(settings, "purchase", ["challenger=2:0.1"])
    with pytest.raises(CallError, match="no version"):
        release(settings, "purchase", ["champion=9"])
    first = release(settings, "purchase", ["champion=1"], by="anna", why="the first")
    assert (first.by, first.why, first.override) == ("anna", "the first", False)
    registry = registries.open(settings)
    assert registry.version("purchase", "champion").version == 1

    canary = release(settings, "purchase", ["challenger=2:0.1", "shadow=1"])
    arms = [(arm.name, arm.version, round(arm.weight, 9), arm.shadow) for arm in canary.arms]
    assert arms == [("champion", 1, 0.9, False), ("challenger", 2, 0.1, False), ("shadow", 1, 0.0, True)]
    assert registry.version("purchase", "challenger").version == 2
    assert moved_aliases(settings, ["purchase", "absent"]) == []

    release(settings, "purchase", ["champion=2"], why="better")
    assert registry.version("purchase", "champion").version == 2
    registry.set_alias("purchase", "champion", 1)
    assert moved_aliases(settings, ["purchase"]) == [Moved("purchase", "champion", 1, 2)]
    assert (
        registries.open(settings).alias("purchase", "champion") == registry.alias("purchase", "champion") == 1
    )
    assert registries.open(settings).alias("purchase", "absent") is None

    with pytest.raises(Refused, match="the gate refused version 3"):
        release(settings, "purchase", ["challenger=3:0.5"])

    back = rollback(settings, "purchase")
    assert (back.restores, back.arms) == (canary.id, canary.arms)
    assert moved_aliases(settings, ["purchase"]) == []
    assert rollback(settings, "purchase").restores == first.id
    log = logs.open(settings.log_url)
    assert len(releases.history(log, "purchase")) == 5
    log.close()


def test_a_share_is_needed_beside_the_champion(settings):
    with pytest.raises(CallError, match="needs a share"):
        release(settings, "purchase", ["champion=1", "challenger=2"])
    with pytest.raises(CallError, match="has weight"):
        release(settings, "purchase", ["champion=1", "challenger=2:1.5"])


def test_what_the_gate_refused_may_be_a_shadow_or_answer_by_override(settings):
    assert release(settings, "purchase", ["champion=1", "shadow=3"]).override is False
    assert release(settings, "purchase", ["champion=3"], why="we know better", override=True).override is True
