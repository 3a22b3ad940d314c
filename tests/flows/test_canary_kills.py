"""A process that is killed while it decides about a canary: whoever looks next goes on, and decides once."""

import os
import random
import signal
import subprocess
import sys
import threading
from contextlib import closing
from datetime import timedelta

import msgspec
import pytest
from tests.serving.small_project import make_project_with_versions

from headrace import log as logs
from headrace.declare.event import contract_of
from headrace.events.ingest.ingest import Ingest
from headrace.flows.models.aliases import find_moved_aliases
from headrace.flows.models.canary import review_all, start
from headrace.flows.models.release import release
from headrace.kernel.ids import new_id
from headrace.serving import release as releases
from headrace.serving.prediction import TOPIC, Prediction
from headrace.workspace import Workspace

STEPS = [0.25, 0.5, 0.75, 1.0]
REVIEW = """
import sys
from pathlib import Path
from headrace.config.settings import load_settings
from headrace.flows.models.canary import review_all
from headrace.workspace import Workspace
with Workspace(load_settings(Path(sys.argv[1]))) as workspace:
    review_all(workspace)
"""
POINTS = ("release.before_record", "release.after_record", "release.after_aliases")


@pytest.fixture
def settings(tmp_path):
    """A project with two versions, of which the first is the champion."""
    project = make_project_with_versions(tmp_path)
    with Workspace(project) as workspace:
        release(workspace, "purchase", ["champion=1"], by="anna")
    return project


def log_predictions(workspace, step, count, failed_share):
    """Ingests predictions of both arms of a release, each of another entity."""
    chance, records = random.Random(step.canary.step), []
    for user in range(count):
        arm = chance.choice(step.arms)
        has_failed = arm.name == "canary" and chance.random() < failed_share
        records.append(
            Prediction(
                id=new_id(),
                model="purchase",
                version=arm.version,
                plan="",
                arm=arm.name,
                shadow=False,
                at=step.at + timedelta(milliseconds=user),
                instance=0,
                entity={"user_id": user, "product_id": 7},
                request={"price": 1.0},
                features={},
                value=None if has_failed else 0.5,
                latency_ms=chance.random(),
                missing=[],
                positions={},
                release=step.id,
                error="internal" if has_failed else None,
            )
        )
    workspace.log.create(TOPIC)
    workspace.log.append(TOPIC, [msgspec.json.encode(record) for record in records])
    contract = contract_of(Prediction)
    Ingest(contract, workspace.log, workspace.lake).run(True, threading.Event())


def kill_review(settings, point):
    """Reviews the canaries in a process that is killed at this point."""
    killed = subprocess.run(
        [sys.executable, "-c", REVIEW, str(settings.root)],
        env={**os.environ, "HEADRACE_FAULT": point},
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL


def read_history(settings):
    with closing(logs.open(settings.log.url)) as log:
        return releases.history(log, "purchase")


def check_settled(settings, expected):
    """The canary's releases so far, and that a further look changes nothing and the aliases are right."""
    with Workspace(settings) as workspace:
        review_all(workspace)
        history = read_history(settings)
        assert [(new.by, None if new.canary is None else new.canary.step) for new in history[2:]] == expected
        assert len({new.id for new in history}) == len(history)
        assert find_moved_aliases(workspace, [history[-1]]) == []
        champion = releases.champion_version(history[-1])
        assert workspace.registry.version("purchase", "champion").version == champion
    return history[-1]


@pytest.mark.parametrize("point", [POINTS[1], *(pytest.param(p, marks=pytest.mark.soak) for p in POINTS[::2])])
def test_each_step_is_decided_once_although_the_decider_is_killed(settings, point):
    with Workspace(settings) as workspace:
        step = start(workspace, "purchase", "canary=2", STEPS, min_requests=20)
    expected = []
    for number in range(1, len(STEPS)):
        with Workspace(settings) as workspace:
            log_predictions(workspace, step, 200, 0.0)
        kill_review(settings, point)
        expected.append(("canary", number))
        step = check_settled(settings, expected)
    assert step.arms == [releases.Arm(2)]
    assert step.why.startswith("advance: ")


@pytest.mark.parametrize("point", [POINTS[0], *(pytest.param(p, marks=pytest.mark.soak) for p in POINTS[1:])])
def test_a_rollback_is_decided_once_although_the_decider_is_killed(settings, point):
    first = read_history(settings)[0]
    with Workspace(settings) as workspace:
        step = start(workspace, "purchase", "canary=2", STEPS, min_requests=20)
        log_predictions(workspace, step, 400, 0.5)
    kill_review(settings, point)
    restored = check_settled(settings, [("canary", None)])
    assert (restored.restores, restored.arms) == (first.id, first.arms)
    assert restored.why.startswith("roll back: errors: ")


@pytest.mark.soak
def test_a_decider_that_is_killed_at_any_moment_decides_once(settings):
    """Killed after random times, from its start until after its end."""
    chance = random.Random(11)
    with Workspace(settings) as workspace:
        step = start(workspace, "purchase", "canary=2", [n / 13 for n in range(1, 14)], min_requests=5)
    expected, killed = [], 0
    for number in range(1, 13):
        with Workspace(settings) as workspace:
            log_predictions(workspace, step, 400, 0.0)
        process = subprocess.Popen([sys.executable, "-c", REVIEW, str(settings.root)])
        try:
            process.wait(chance.uniform(0.5, 8))
        except subprocess.TimeoutExpired:
            process.kill()
            killed += process.wait() == -signal.SIGKILL
        done = len(read_history(settings)) - 2
        assert done in (number - 1, number)
        expected.append(("canary", number))
        if done == number - 1:
            with Workspace(settings) as workspace:
                review_all(workspace)
        history = read_history(settings)
        assert [(new.by, new.canary.step) for new in history[2:]] == expected
        step = history[-1]
    assert killed >= 2
    check_settled(settings, expected)
