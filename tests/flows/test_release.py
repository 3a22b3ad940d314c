"""The verbs `release` and `rollback`: the syntax of arms, refused releases, and aliases."""

import os
import signal
import subprocess
import sys
from contextlib import closing, contextmanager

import pytest
from msgspec import structs
from tests.serving.small_project import make_project, plan_of, put_features, put_release, register_version

from headrace import log as logs
from headrace import registry as registries
from headrace.flows.models import canary
from headrace.flows.models import release as releasing
from headrace.flows.models.aliases import MovedAlias, find_moved_aliases
from headrace.flows.models.canary import find_canaries, review, review_all, review_each, start
from headrace.flows.models.endpoint import describe
from headrace.flows.models.release import parse_arm, release, rollback
from headrace.flows.project.status import status
from headrace.flows.trace.lineage import lineage
from headrace.http.serve import serve
from headrace.kernel.errors import CallError, Refused, Unavailable
from headrace.kernel.ids import new_id
from headrace.kernel.time import now
from headrace.projects.running import Up, find_up, hold_up_lock, write_up
from headrace.registry.bundle import seal
from headrace.registry.signing import signing_key
from headrace.serving import release as releases
from headrace.serving.endpoint import Endpoint
from headrace.serving.models import Models
from headrace.serving.release import Arm
from headrace.workspace import Workspace


def read_moved_aliases(settings):
    log = logs.open(settings.log.url)
    follower = releases.ReleaseFollower(log)
    follower.poll()
    log.close()
    return find_moved_aliases(Workspace(settings), follower.in_force.values())


@pytest.mark.parametrize(
    ("text", "arm"),
    [
        ("champion=3", ("champion", 3, None)),
        ("challenger=4:0.1", ("challenger", 4, 0.1)),
        ("shadow=5", ("shadow", 5, None)),
    ],
)
def test_an_arm_is_parsed(text, arm):
    assert parse_arm(text) == arm


@pytest.mark.parametrize(
    "text",
    [
        "champion",
        "champion=",
        "champion=0",
        "champion=x",
        "=3",
        "c=3:",
        "c=3:1.2.3",
        "c=3:2",
        "c=3:0",
        "shadow=5:0.5",
    ],
)
def test_an_invalid_arm_is_refused(text):
    with pytest.raises(CallError):
        parse_arm(text)


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """A project with three versions of model purchase in its registry; the gate refused the third."""
    project = make_project(tmp_path_factory.mktemp("release") / "project")
    put_features(project, plan_of(), {7: (9.5, 190)})
    for version, gate in ((1, "passed"), (2, "passed"), (3, "refused")):
        register_version(project, tmp_path_factory.mktemp("bundle"), version, gate)
    return project


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_releases_set_the_aliases_and_moved_ones_are_found(settings):
    with pytest.raises(CallError, match="no champion yet"):
        release(Workspace(settings), "purchase", ["challenger=2:0.1"])
    for ask in (
        lambda workspace: release(workspace, "nope", ["canary=1"]),
        lambda workspace: start(workspace, "nope", "canary=1", [0.1, 1.0]),
        lambda workspace: review(workspace, "nope"),
        lambda workspace: rollback(workspace, "nope"),
    ):
        with pytest.raises(CallError, match="model 'nope' does not exist"):
            ask(Workspace(settings))
    with pytest.raises(CallError, match="no version"):
        release(Workspace(settings), "purchase", ["champion=9"])
    first = release(Workspace(settings), "purchase", ["champion=1"], by="anna", why="the first")
    assert (first.by, first.why, first.override) == ("anna", "the first", False)
    registry = registries.open(settings)
    assert registry.version("purchase", "champion").version == 1

    canary = release(Workspace(settings), "purchase", ["challenger=2:0.1", "shadow=1"])
    arms = [(arm.name, arm.version, round(arm.weight, 9), arm.shadow) for arm in canary.arms]
    assert arms == [("champion", 1, 0.9, False), ("challenger", 2, 0.1, False), ("shadow", 1, 0.0, True)]
    assert registry.version("purchase", "challenger").version == 2
    assert read_moved_aliases(settings) == []

    release(Workspace(settings), "purchase", ["champion=2"], why="better")
    assert registry.version("purchase", "champion").version == 2
    assert registry.alias("purchase", "challenger") is None  # the release has none
    registry.set_alias("purchase", "challenger", 1)
    assert read_moved_aliases(settings) == [MovedAlias("purchase", "challenger", 1, None)]
    registry.delete_alias("purchase", "challenger")
    registry.set_alias("purchase", "champion", 1)
    assert read_moved_aliases(settings) == [MovedAlias("purchase", "champion", 1, 2)]
    assert (
        registries.open(settings).alias("purchase", "champion") == registry.alias("purchase", "champion") == 1
    )
    assert registries.open(settings).alias("purchase", "absent") is None

    with pytest.raises(Refused, match="the gate refused version 3"):
        release(Workspace(settings), "purchase", ["challenger=3:0.5"])

    restored = rollback(Workspace(settings), "purchase")
    assert (restored.restores, restored.arms) == (canary.id, canary.arms)
    assert read_moved_aliases(settings) == []
    assert rollback(Workspace(settings), "purchase").restores == first.id
    log = logs.open(settings.log.url)
    assert len(releases.history(log, "purchase")) == 5
    log.close()
    with Workspace(settings) as workspace:
        runs = workspace.lineage.runs("release purchase")
        assert [(run.outcome, sorted(model.name for model in run.inputs)) for run in runs] == [
            ("COMPLETE", ["purchase@1"]),
            ("COMPLETE", ["purchase@1", "purchase@2"]),
            ("COMPLETE", ["purchase@2"]),
            ("COMPLETE", ["purchase@1", "purchase@2"]),
            ("COMPLETE", ["purchase@1"]),
        ]
        endpoint = lineage(workspace, "purchase")
        assert (endpoint.dataset.kind, endpoint.run) == ("endpoint", runs[0])
        assert [node.dataset.name for node in endpoint.beyond] == ["purchase@1"]
        with pytest.raises(CallError, match="has no version '9'"):
            lineage(workspace, "purchase@9")


def test_an_arm_beside_the_champion_needs_a_share(settings):
    with pytest.raises(CallError, match="needs a share") as caught:
        release(Workspace(settings), "purchase", ["champion=1", "canary=2"])
    assert "canary=2:0.1, or give its steps: canary=2 --steps" in caught.value.remedy
    with pytest.raises(CallError, match="is not a valid share"):
        release(Workspace(settings), "purchase", ["champion=1", "challenger=2:1.5"])


def test_a_version_refused_by_the_gate_can_be_a_shadow_or_answer_by_override(settings):
    assert release(Workspace(settings), "purchase", ["champion=1", "shadow=3"]).override is False
    assert (
        release(Workspace(settings), "purchase", ["champion=3"], why="we know better", override=True).override
        is True
    )


def test_a_canary_begins_with_its_first_step(settings):
    with Workspace(settings) as workspace:
        release(workspace, "purchase", ["champion=1"])
        before = releases.find_current(workspace.log, "purchase")
        new = start(workspace, "purchase", "canary=2", [0.01, 0.25, 1.0], min_requests=10, why="try it")
        assert [(arm.name, arm.version, arm.weight) for arm in new.arms] == [
            ("champion", 1, 0.99),
            ("canary", 2, 0.01),
        ]
        assert (new.canary.steps, new.canary.step, new.canary.restores) == ([0.01, 0.25, 1.0], 0, before.id)
        assert workspace.registry.version("purchase", "champion").version == 1
        assert "canary" in str(find_canaries(workspace)["purchase"].arms)
        decision = review(workspace, "purchase").decision
        assert (decision.action, decision.why) == ("hold", "0 of 10 requests and 0 of 0 outcomes so far")
        assert rollback(workspace, "purchase").arms == before.arms


def test_shadows_stay_beside_a_canary(settings):
    with Workspace(settings) as workspace:
        release(workspace, "purchase", ["champion=1", "shadow=3"])
        new = start(workspace, "purchase", "canary=2", [0.5, 1.0], min_requests=0)
        shadow = Arm(3, 0.0, shadow=True, name="shadow")
        assert new.arms == [Arm(1, 0.5, name="champion"), Arm(2, 0.5, name="canary"), shadow]
        (advanced,) = review_all(workspace)
        assert advanced.decision.action == "advance"
        assert releases.find_current(workspace.log, "purchase").arms == [Arm(2), shadow]


@pytest.mark.parametrize("share", ["challenger", "canary"])
def test_a_canary_beside_another_share_is_refused(settings, share):
    with Workspace(settings) as workspace:
        release(workspace, "purchase", ["champion=1"])
        if share == "canary":
            start(workspace, "purchase", "canary=2", [0.25, 1.0])
        else:
            release(workspace, "purchase", ["champion=1", "challenger=2:0.25"])
        before = releases.find_current(workspace.log, "purchase")
        with pytest.raises(CallError, match=rf"{share} \(version 2\) of model 'purchase' has a share of 0.25"):
            start(workspace, "purchase", "canary=3", [0.1, 1.0], override=True)
        assert releases.find_current(workspace.log, "purchase") == before


@pytest.mark.parametrize(
    ("arm", "steps", "text"),
    [
        ("challenger=2", [0.1], "is not a canary"),
        ("canary=2:0.1", [0.1], "is not a canary"),
        ("canary=2", [], "not valid steps"),
        ("canary=2", [0.1, 0.1], "not valid steps"),
        ("canary=2", [0.5, 0.1], "not valid steps"),
        ("canary=2", [0.0, 0.1], "not valid steps"),
        ("canary=2", [0.5, 1.5], "not valid steps"),
        ("canary=1", [0.5], "is the champion already"),
        ("canary=9", [0.5], "no version"),
    ],
)
def test_a_canary_that_is_not_valid_is_refused(settings, arm, steps, text):
    with Workspace(settings) as workspace:
        release(workspace, "purchase", ["champion=1"])
        with pytest.raises(CallError, match=text):
            start(workspace, "purchase", arm, steps)


@pytest.mark.parametrize("numbers", [{"min_requests": -5}, {"min_outcomes": -1}])
def test_a_canary_without_a_valid_number_of_observations_is_refused(settings, numbers):
    with Workspace(settings) as workspace:
        release(workspace, "purchase", ["champion=1"])
        with pytest.raises(CallError, match="must be at least"):
            start(workspace, "purchase", "canary=2", [0.1, 1.0], **numbers)


def test_a_release_between_a_canarys_review_and_its_decision_stays_in_force(settings, monkeypatch):
    with Workspace(settings) as workspace:
        release(workspace, "purchase", ["champion=1"])
        start(workspace, "purchase", "canary=2", [0.5, 1.0], min_requests=0)
        by_hand = []

        def release_by_hand(function):
            def call(*arguments):
                by_hand.append(release(workspace, "purchase", ["champion=1"], why="stop"))
                return function(*arguments)

            return call

        assert review(workspace, "purchase").decision.action == "advance"
        monkeypatch.setattr(canary, "decide", release_by_hand(canary.decide))
        assert review_all(workspace) == []
        assert releases.find_current(workspace.log, "purchase") == by_hand[-1]
        assert find_canaries(workspace) == {}
        monkeypatch.setattr(canary, "try_arms", release_by_hand(canary.try_arms))
        with pytest.raises(Refused, match="was put in force meanwhile"):
            start(workspace, "purchase", "canary=2", [0.5])
        assert releases.find_current(workspace.log, "purchase") == by_hand[-1]
        assert len(by_hand) == 2
        assert workspace.registry.version("purchase", "champion").version == 1


def test_a_release_beside_a_champion_that_another_one_replaced_meanwhile_is_refused(settings, monkeypatch):
    with Workspace(settings) as workspace:
        release(workspace, "purchase", ["champion=1"])
        try_arms, others = releasing.try_arms, []

        def release_meanwhile(*arguments):
            try_arms(*arguments)  # it takes seconds, in which somebody else releases
            if not others:
                others.append(None)
                others[0] = release(workspace, "purchase", ["champion=2"])

        monkeypatch.setattr(releasing, "try_arms", release_meanwhile)
        with pytest.raises(Refused, match="was put in force meanwhile"):
            release(workspace, "purchase", ["challenger=1:0.1"])
        assert releases.find_current(workspace.log, "purchase") == others[0]
        others.clear()
        named = release(workspace, "purchase", ["champion=1"])  # whoever names the champion means it
        assert releases.find_current(workspace.log, "purchase") == named
    assert read_moved_aliases(settings) == []


def test_the_slower_of_two_releases_leaves_the_aliases_of_the_one_in_force(settings, monkeypatch):
    with Workspace(settings) as workspace:
        set_aliases, others = releasing.set_aliases, []

        def release_meanwhile(workspace, new):
            if not others:
                others.append(None)
                release(workspace, "purchase", ["champion=2", "challenger=1:0.1"])
            set_aliases(workspace, new)

        monkeypatch.setattr(releasing, "set_aliases", release_meanwhile)
        release(workspace, "purchase", ["champion=1"])
        assert releases.find_current(workspace.log, "purchase").arms[0] == Arm(2, 0.9)
    assert read_moved_aliases(settings) == []


def test_a_rollback_without_the_registry_is_in_force_and_says_so(settings, caplog):
    """An error would make people run it again, which goes back one release more."""
    with Workspace(settings) as workspace:
        releases_before = [release(workspace, "purchase", [f"champion={version}"]) for version in (1, 2)]
    away = settings.with_values(mlflow="http://127.0.0.1:9")  # nothing listens there
    with Workspace(away) as workspace:
        restored = rollback(workspace, "purchase")
        assert restored.restores == releases_before[0].id
        assert releases.find_current(workspace.log, "purchase") == restored
    assert "is in force, but its aliases could not be set" in caplog.text
    assert read_moved_aliases(settings) == [MovedAlias("purchase", "champion", 2, 1)]
    with Workspace(away) as workspace, pytest.raises(Unavailable):
        release(workspace, "purchase", ["champion=2"])  # it cannot be tried, and nothing is recorded
    assert release_history(settings)[-1] == restored


REVIEW = """
import sys
from pathlib import Path
from headrace.config.settings import load_settings
from headrace.flows.models.canary import review_all
from headrace.workspace import Workspace
with Workspace(load_settings(Path(sys.argv[1]))) as workspace:
    review_all(workspace)
"""


def test_the_aliases_are_set_after_a_kill_between_a_canarys_record_and_them(settings):
    with Workspace(settings) as workspace:
        release(workspace, "purchase", ["champion=1"])
        start(workspace, "purchase", "canary=2", [0.5, 1.0], min_requests=0)
    killed = subprocess.run(
        [sys.executable, "-c", REVIEW, str(settings.root)],
        env={**os.environ, "HEADRACE_FAULT": "release.after_record"},
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    assert read_moved_aliases(settings) == [MovedAlias("purchase", "champion", 1, 2)]
    with Workspace(settings) as workspace:
        step = find_canaries(workspace)["purchase"]
        assert (step.canary.step, step.arms) == (1, [Arm(2)])
        settled = set()
        assert review_all(workspace, settled) == []
        assert find_canaries(workspace)["purchase"] == step
        assert read_moved_aliases(settings) == []
        workspace.registry.set_alias("purchase", "champion", 1)  # by hand, afterwards: it stays
        assert review_all(workspace, settled) == []
    assert read_moved_aliases(settings) == [MovedAlias("purchase", "champion", 1, 2)]


def test_a_canary_that_fails_in_an_unforeseen_way_does_not_stop_the_others(settings, caplog):
    """A record of another model has a step that its canary does not have."""
    with Workspace(settings) as workspace:
        release(workspace, "purchase", ["champion=1"])
        start(workspace, "purchase", "canary=2", [0.5, 1.0], min_requests=0)
        first = releases.find_current(workspace.log, "purchase")
        damaged = structs.replace(first.canary, id=new_id(), step=9)
        releases.append(
            workspace.log, structs.replace(first, id=new_id(), model="a", canary=damaged, follows=None)
        )
        shown = review_each(workspace, find_canaries(workspace).values())
        assert (shown["a"], shown["purchase"].release) == ("IndexError: list index out of range", first)
        (changed,) = review_all(workspace)
        assert changed.release == first
        assert "the canary of a cannot be reviewed" in caplog.text
        assert "IndexError" in caplog.text


@pytest.fixture
def small(tmp_path):
    """A project with real versions 1 (many views: yes) and 2 (few views: yes), features online, 1 released."""
    settings = make_project(tmp_path / "small")
    for version, slope in ((1, 1), (2, -1)):
        (tmp_path / str(version)).mkdir()
        register_version(settings, tmp_path / str(version), version, slope=slope)
    put_features(settings, plan_of(), {7: (9.5, 190), 8: (20.0, 10)})
    put_release(settings, Arm(1))
    return settings


@contextmanager
def running_endpoint(settings):
    """Runs an endpoint and records it as the project's `up` does."""
    endpoint = Endpoint(Models(settings), settings.place("serving"), "127.0.0.1")
    with hold_up_lock(settings), serve(endpoint.app, "127.0.0.1", 0) as served:
        write_up(settings, Up(os.getpid(), now(), served.url, "", "", {}))
        yield
    endpoint.close()


def release_history(settings):
    log = logs.open(settings.log.url)
    try:
        return releases.history(log, "purchase")
    finally:
        log.close()


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (lambda bundle, key: (bundle / "plan.json").unlink(), Refused, "'plan.json' is missing"),
        (lambda bundle, key: (bundle / "model" / "model.ubj").write_bytes(b"x"), Refused, "was changed"),
        (
            lambda bundle, key: ((bundle / "model" / "model.ubj").write_bytes(b"x"), seal(bundle, key)),
            Refused,
            "version 2 of model 'purchase' cannot answer requests: .*Invalid model format",
        ),
    ],
)
def test_a_version_that_cannot_be_loaded_is_not_released(small, damage, error, message):
    damage(registries.open(small).bundle_folder("purchase", 2), signing_key(small))
    with pytest.raises(error, match=message):
        release(Workspace(small), "purchase", ["champion=2"])
    assert len(release_history(small)) == 1


def test_a_version_without_online_features_is_not_released(tmp_path):
    settings = make_project(tmp_path / "empty")
    (tmp_path / "bundle").mkdir()
    register_version(settings, tmp_path / "bundle", 1)
    with pytest.raises(Unavailable, match="version 1 of model 'purchase' cannot be tried"):
        release(Workspace(settings), "purchase", ["champion=1"])
    assert release_history(settings) == []


def test_release_waits_for_the_endpoint_also_after_a_release_of_a_clock_that_is_ahead(small):
    with closing(logs.open(small.log.url)) as log:
        ahead = releases.make("purchase", [Arm(1)], by="anna", why="her clock is ahead")
        releases.append(log, structs.replace(ahead, id=f"7{ahead.id[1:]}"))
    with running_endpoint(small):
        new = release(Workspace(small), "purchase", ["champion=2"])
        assert describe(small, find_up(small)).models["purchase"].release == new


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_while_up_runs_release_returns_once_the_endpoint_answers_by_it(small):
    with running_endpoint(small):
        second = release(Workspace(small), "purchase", ["champion=2"])
        state = status(Workspace(small))
        assert (state.failed_releases, state.endpoint_error) == ({}, None)
        assert rollback(Workspace(small), "purchase").restores != second.id


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_a_release_that_the_endpoint_cannot_activate_is_an_error_and_in_status(small):
    release(Workspace(small), "purchase", ["champion=2"])
    with running_endpoint(small):
        bundle = registries.open(small).bundle_folder("purchase", 1)
        (bundle / "model" / "model.ubj").write_bytes(b"changed after it answered")
        with pytest.raises(Refused, match="recorded, but the endpoint cannot activate it") as refused:
            rollback(Workspace(small), "purchase")
        assert "was changed" in refused.value.what
        failure = status(Workspace(small)).failed_releases["purchase"]
        assert failure.release == release_history(small)[-1].id
        assert "was changed" in failure.why


def test_status_reports_an_endpoint_that_does_not_answer(small):
    with hold_up_lock(small):
        write_up(small, Up(os.getpid(), now(), "http://127.0.0.1:9", "", "", {}))
        assert "does not answer" in status(Workspace(small)).endpoint_error


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_status_reports_an_alias_moved_by_hand_without_loading_models(small):
    registries.open(small).set_alias("purchase", "champion", 2)
    assert status(Workspace(small)).moved_aliases == (MovedAlias("purchase", "champion", 2, 1),)


def test_status_reports_that_aliases_cannot_be_compared_while_mlflow_is_away(small):
    url = "http://127.0.0.1:1"
    state = status(Workspace(small.with_values(mlflow=url)))
    assert state.moved_aliases == ()
    assert [url in problem for problem in state.problems] == [True]
    assert state.releases["purchase"].arms[0].version == 1
