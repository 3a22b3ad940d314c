"""Shadows: they predict copies of answered requests, several in a call, and take no time from clients."""

import threading
from collections import Counter
from contextvars import copy_context

from tests.serving.running import INSTANCE, ship_predictions
from tests.serving.small_project import plan_of, put_bundle, put_release

from headrace.serving.metrics import Metrics
from headrace.serving.models import Models
from headrace.serving.release import Arm
from headrace.serving.shadows import RequestCopy, ShadowPredictor, ShadowQueue


def answer(predictor, model, *users):
    """The copy of a request for these users, which was answered."""
    instances = [{**INSTANCE, "user_id": user} for user in users]
    return RequestCopy(model, instances, predictor.predict(model, instances), copy_context())


def start_queue(predictor, metrics, copies, entered):
    """A queue that predicts the first copy, which the event tells, while the others are added."""
    queue = ShadowQueue(predictor, metrics)
    queue.add(copies[0])
    entered.wait()
    for copy in copies[1:]:
        queue.add(copy)
    return queue


def read_copies(project):
    """Id of the answer → its copies on the log."""
    copies = {}
    for prediction in ship_predictions(project):
        if prediction.shadow:
            copies.setdefault(prediction.shadow_of, []).append(prediction)
    return copies


def test_copies_share_a_call_but_one_time_in_eight_and_have_the_values_that_they_have_alone(project, predictor):
    put_release(project, Arm(1), Arm(2, shadow=True, name="shadow"), Arm(1, shadow=True, name="shadow-copy"))
    model = Models(project).released["purchase"]
    shadows = ShadowPredictor(predictor, Metrics())
    expected, shared = {}, []
    for turn in range(17):
        copies = [answer(predictor, model, user) for user in range(5)] + [answer(predictor, model, 7, 8, 9)]
        shadows.predict(copies)
        for copy in copies:
            for prediction in copy.predictions:
                expected[prediction.id] = prediction.value, prediction.entity, prediction.instance
        shared.append((turn % 8 > 0, {copy.predictions[0].id for copy in copies[:5]}))
    logged = read_copies(project)
    assert logged.keys() == expected.keys()
    for id_, (value, entity, instance) in expected.items():
        by_arm = {copy.arm: copy for copy in logged[id_]}
        assert len(logged[id_]) == 2
        assert by_arm["shadow-copy"].value == value > 0.5 > by_arm["shadow"].value
        assert {(copy.entity["user_id"], copy.instance) for copy in logged[id_]} == {
            (entity["user_id"], instance)
        }
    for is_shared, ids in shared:
        assert {copy.shared for id_ in ids for copy in logged[id_]} == {is_shared}
        moments = {copy.at for id_ in ids for copy in logged[id_] if copy.arm == "shadow"}
        assert (len(moments) == 1) == is_shared
    singles = set().union(*(ids for _, ids in shared))
    assert not any(copy.shared for id_, copies in logged.items() if id_ not in singles for copy in copies)


def test_a_copy_that_fails_fails_no_other_and_each_is_counted(project, boosters, metrics, predictor):
    """The shadow refuses a missing feature, with which the champion predicts."""
    put_bundle(project, boosters, 3, plan_of(missing="refuse"), slope=1)
    put_release(project, Arm(1), Arm(3, shadow=True, name="shadow"))
    model = Models(project).released["purchase"]
    copies = [answer(predictor, model, user) for user in range(4)]
    for product in (404, 405):
        instances = [{**INSTANCE, "product_id": product}]
        copies.append(RequestCopy(model, instances, predictor.predict(model, instances), copy_context()))
    shadows = ShadowPredictor(predictor, metrics)
    shadows.predict(copies)  # one by one
    shadows.predict(copies)  # together, until that fails
    assert metrics.counts.failed_shadows == 2 * 2
    logged = read_copies(project)
    assert {id_: len(copied) for id_, copied in logged.items()} == {
        copy.predictions[0].id: 2 for copy in copies[:4]
    }


def test_a_queue_that_cannot_predict_ends_and_counts_what_is_left(project, metrics, predictor, monkeypatch):
    monkeypatch.setattr("headrace.serving.shadows._LONGEST_END", 0.05)
    put_release(project, Arm(1), Arm(2, shadow=True, name="shadow"))
    model = Models(project).released["purchase"]
    copies = [answer(predictor, model, user) for user in range(5)]
    entered, go_on, predict = threading.Event(), threading.Event(), predictor.complete_together

    def hold(calls, answers):  # as while the online store does not answer
        predict(calls, answers)
        entered.set()
        assert go_on.wait(60)

    predictor.complete_together = hold
    queue = start_queue(predictor, metrics, copies, entered)
    queue.close()
    assert metrics.counts.shed_shadows == 5
    go_on.set()


def test_a_queue_copies_what_waits_before_it_ends_and_counts_what_has_no_room(
    project, metrics, predictor, monkeypatch
):
    monkeypatch.setattr("headrace.serving.shadows._LONGEST_END", 60.0)
    put_release(project, Arm(1), Arm(2, shadow=True, name="shadow"))
    model = Models(project).released["purchase"]
    copies = [answer(predictor, model, user) for user in range(200)]
    entered, go_on = threading.Event(), threading.Event()
    predict = predictor.complete_together

    def hold(calls, answers):
        entered.set()
        go_on.wait()
        predict(calls, answers)

    predictor.complete_together = hold
    queue = start_queue(predictor, metrics, copies, entered)
    go_on.set()
    queue.close()
    shed = metrics.counts.shed_shadows
    assert shed == 200 - 1 - 64
    assert Counter(len(copied) for copied in read_copies(project).values()) == {1: 200 - shed}
