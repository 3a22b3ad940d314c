"""Releases: what is refused, what is in force, and how rollback walks back."""

import pytest

from headrace import log
from headrace.kernel.errors import CallError
from headrace.serving import release
from headrace.serving.release import Arm


@pytest.fixture
def topics(tmp_path):
    opened = log.open(f"sqlite://{tmp_path}/log")
    yield opened
    opened.close()


def put(topics, *arms, model="purchase"):
    made = release.make(model, list(arms), by="test", why="because")
    release.append(topics, made)
    return made


def test_the_last_release_of_a_model_is_in_force(topics):
    assert release.current(topics, "purchase") is None
    put(topics, Arm(1))
    put(topics, Arm(7), model="churn")
    second = put(topics, Arm(1, 0.9), Arm(2, 0.1, name="challenger"), Arm(3, shadow=True, name="shadow"))
    assert release.current(topics, "purchase") == second
    assert [one.model for one in release.history(topics, "churn")] == ["churn"]
    assert [arm.weight for arm in second.arms] == [0.9, 0.1, 0.0]
    assert release.champion(second) == 1


@pytest.mark.parametrize(
    ("arms", "words"),
    [
        ([], "no arm answers"),
        ([Arm(1, shadow=True)], "no arm answers"),
        ([Arm(1), Arm(2)], "same name"),
        ([Arm(1, 0.9), Arm(2, 0.2, name="challenger")], "add up to 1.1"),
        ([Arm(1, 1.0), Arm(2, 0.0, name="challenger")], "has weight 0"),
        ([Arm(1, float("nan"))], "has weight nan"),
    ],
)
def test_a_release_that_cannot_be_is_refused(arms, words):
    with pytest.raises(CallError, match=words):
        release.make("purchase", arms, by="test", why="because")


def test_rollback_goes_one_further_back_each_time(topics):
    first, second, third = (put(topics, Arm(version)) for version in (1, 2, 3))
    back = release.rollback(topics, "purchase", by="test", why="worse")
    assert (back.arms, back.restores) == (second.arms, second.id)
    assert release.rollback(topics, "purchase", by="test", why="worse").restores == first.id
    with pytest.raises(CallError, match="no release to go back to"):
        release.rollback(topics, "purchase", by="test", why="worse")
    put(topics, Arm(4))
    assert release.rollback(topics, "purchase", by="test", why="worse").arms == first.arms
    assert len(release.history(topics, "purchase")) == 7
    assert third.restores is None


def test_followers_see_what_is_new_and_pass_over_what_is_no_release(topics):
    follower = release.Releases(topics)
    assert follower.poll() == []
    made = put(topics, Arm(1))
    topics.append(release.TOPIC, [b"not json", b'{"id":1}'])
    assert follower.poll() == [made]
    assert follower.poll() == []
    later = put(topics, Arm(2))
    assert follower.poll() == [later]
    assert follower.in_force == {"purchase": later}
