"""Releases: which are refused, which is in force, and what a rollback restores."""

import msgspec
import pytest

from headrace import log
from headrace.kernel.errors import CallError, NotAppended, Refused, Unavailable
from headrace.serving import release
from headrace.serving.canary import CanaryPlan
from headrace.serving.release import Arm


@pytest.fixture
def topics(tmp_path):
    topics = log.open(f"sqlite://{tmp_path}/log")
    yield topics
    topics.close()


def append_release(topics, *arms, model="purchase"):
    new = release.make(model, list(arms), by="test", why="because")
    release.append(topics, new)
    return new


def roll_back(topics):
    new = release.make_rollback(topics, "purchase", by="test", why="worse")
    release.append(topics, new)
    return new


def test_the_last_release_of_a_model_is_in_force(topics):
    assert release.find_current(topics, "purchase") is None
    append_release(topics, Arm(1))
    append_release(topics, Arm(7), model="churn")
    second = append_release(
        topics, Arm(1, 0.9), Arm(2, 0.1, name="challenger"), Arm(3, shadow=True, name="shadow")
    )
    assert release.find_current(topics, "purchase") == second
    assert [record.model for record in release.history(topics, "churn")] == ["churn"]
    assert [arm.weight for arm in second.arms] == [0.9, 0.1, 0.0]
    assert release.champion_version(second) == 1


@pytest.mark.parametrize(
    ("arms", "message"),
    [
        ([], "no arm answers"),
        ([Arm(1, shadow=True)], "no arm answers"),
        ([Arm(1), Arm(2)], "same name"),
        ([Arm(1, 0.9), Arm(2, 0.2, name="challenger")], "add up to 1.1"),
        ([Arm(1, 1.0), Arm(2, 0.0, name="challenger")], "has weight 0"),
        ([Arm(1, float("nan"))], "has weight nan"),
    ],
)
def test_an_invalid_release_is_refused(arms, message):
    with pytest.raises(CallError, match=message):
        release.make("purchase", arms, by="test", why="because")


def test_each_rollback_goes_one_release_further_back(topics):
    first, second, third = (append_release(topics, Arm(version)) for version in (1, 2, 3))
    restored = roll_back(topics)
    assert (restored.arms, restored.restores) == (second.arms, second.id)
    assert roll_back(topics).restores == first.id
    with pytest.raises(CallError, match="no earlier release to roll back to") as raised:
        roll_back(topics)
    assert "headrace release purchase champion=N" in str(raised.value.remedy)
    append_release(topics, Arm(4))
    assert roll_back(topics).arms == first.arms
    assert len(release.history(topics, "purchase")) == 7
    assert third.restores is None


def test_a_rollback_from_any_step_of_a_canary_restores_the_release_before_it(topics):
    before = append_release(topics, Arm(1))
    plan = CanaryPlan("canary-1", 1, 2, [0.1, 0.5, 1.0], 0, 10, 0, "right", before.id)
    for step, share in enumerate(plan.steps):
        arms = [Arm(1, 1 - share), Arm(2, share, name="canary")] if share < 1 else [Arm(2)]
        present = msgspec.structs.replace(plan, step=step)
        release.append(topics, release.make("purchase", arms, by="canary", why="", canary=present))
        records = release.history(topics, "purchase")
        assert release.find_restored(records) == before
    restored = roll_back(topics)
    assert (restored.arms, restored.restores, restored.canary) == (before.arms, before.id, None)
    with pytest.raises(CallError, match="no earlier release to roll back to"):
        roll_back(topics)


def test_a_follower_reads_new_releases_and_skips_other_records(topics):
    follower = release.ReleaseFollower(topics)
    assert follower.poll() == []
    first = append_release(topics, Arm(1))
    topics.append(release.TOPIC, [b"not json", b'{"id":1}'])
    assert follower.poll() == [first]
    assert follower.poll() == []
    second = append_release(topics, Arm(2))
    assert follower.poll() == [second]
    assert follower.in_force == {"purchase": second}


def test_a_release_that_follows_another_is_void_after_any_other(topics):
    followers = [release.ReleaseFollower(topics) for _ in range(2)]
    first = append_release(topics, Arm(1))
    followers[0].poll()
    by_hand = append_release(topics, Arm(2))
    append_release(topics, Arm(7), model="churn")
    late, next_one = (
        release.make("purchase", [Arm(3)], by="canary", why="advance", follows=before.id)
        for before in (first, by_hand)
    )
    with pytest.raises(Refused, match="another release of model 'purchase' was put in force meanwhile"):
        release.append(topics, late)
    assert release.find_current(topics, "purchase") == by_hand
    assert release.make_rollback(topics, "purchase", by="test", why="worse").restores == first.id
    release.append(topics, next_one)
    assert release.history(topics, "purchase") == [first, by_hand, next_one]
    for follower in followers:
        assert late not in follower.poll()
        assert follower.in_force["purchase"] == next_one


@pytest.mark.parametrize("step", ["create", "append"])
def test_a_release_on_a_log_that_cannot_be_written_says_that_nothing_was_recorded(topics, monkeypatch, step):
    append_release(topics, Arm(1))

    def fail(*arguments):
        raise NotAppended("it cannot be written", where="/log/releases.db", remedy="Give the permission.")

    with monkeypatch.context() as patch:
        patch.setattr(topics, step, fail)
        with pytest.raises(NotAppended, match=r"release [0-9a-f-]{36} was not recorded: it cannot be") as error:
            append_release(topics, Arm(2))
    assert (error.value.where, error.value.remedy) == ("/log/releases.db", "Give the permission.")
    assert len(release.history(topics, "purchase")) == 1


def test_a_record_that_the_log_did_not_confirm_is_looked_up_before_a_rollback_is_run_again(topics, monkeypatch):
    first, append = append_release(topics, Arm(1)), topics.append
    append_release(topics, Arm(2))

    def append_unconfirmed(*arguments):
        append(*arguments)
        raise Unavailable("the broker did not answer")

    with monkeypatch.context() as patch:
        patch.setattr(topics, "append", append_unconfirmed)
        with pytest.raises(Unavailable, match="is not known whether release") as error:
            roll_back(topics)
    assert "Look before you run it again" in error.value.remedy
    assert release.find_current(topics, "purchase").restores == first.id
