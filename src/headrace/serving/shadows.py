"""Shadows: they predict copies of requests that were answered, for the log alone."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Sequence
from contextvars import Context
from functools import partial
from itertools import count
from typing import NamedTuple

from headrace.serving.metrics import Metrics
from headrace.serving.models import ReleasedModel
from headrace.serving.prediction import Prediction
from headrace.serving.predictor import (
    SEPARATED,
    ArmCall,
    Instances,
    SingleRequest,
    SpoolingPredictor,
    list_answers,
)
from headrace.serving.release import Arm

__all__ = ["RequestCopy", "ShadowPredictor", "ShadowQueue"]

_log = logging.getLogger("headrace.serving")
_MAX_WAITING = 64  # requests
_LINGER = 0.02  # seconds
_LONGEST_END = 1.0  # seconds; a replica that ends has more to do


class RequestCopy(NamedTuple):
    """A request that was answered.

    Attributes:
        model: the release that answered it.
        instances: its instances.
        predictions: those that its client received.
        context: the request's context, which has its trace.
    """

    model: ReleasedModel
    instances: Instances
    predictions: Sequence[Prediction]
    context: Context


class ShadowPredictor:
    """Predicts copies of requests by the shadow arms of their release. Only one thread may use it.

    Args:
        predictor: calls the arms.
        metrics: counts the copies that could not be predicted.
    """

    def __init__(self, predictor: SpoolingPredictor, metrics: Metrics) -> None:
        self._predictor, self._metrics = predictor, metrics
        self._turns = count()  # of copies that could share a call

    def predict(self, copies: Sequence[RequestCopy]) -> None:
        """Predicts copies of requests of one release. Logs and counts failures.

        Those with one instance share a lookup and a call of the model. One time in eight each has its own, so
        that the latency of the shadow can be compared.
        """
        together = [copy for copy in copies if len(copy.instances) == 1]
        alone = [copy for copy in copies if len(copy.instances) > 1]
        if len(together) == 1 or (together and next(self._turns) % SEPARATED == 0):
            together, alone = [], list(copies)
        model = copies[0].model
        for arm, servable in model.shadows:
            try_arm = partial(self._predictor.try_by_arm, model, arm, servable)
            outcomes = [try_arm(copy.instances, copy.context, shadow_of=copy.predictions) for copy in alone]
            if together:
                requests = [SingleRequest(copy.instances[0], None, copy.context) for copy in together]
                shadow_of = [copy.predictions[0] for copy in together]
                predict = self._predictor.predict_each_by_arm
                outcomes += predict(model, arm, servable, requests, shared=True, shadow_of=shadow_of)
            self._complete(arm, model, outcomes)

    def _complete(self, arm: Arm, model: ReleasedModel, outcomes: Sequence[ArmCall | Exception]) -> None:
        answers = list(list_answers(outcomes))
        calls = [outcome for outcome in outcomes if isinstance(outcome, ArmCall)]
        self._predictor.complete_together(calls, answers)
        for answer in answers:
            if isinstance(answer, Exception):
                self._metrics.count_failed_shadow()
                _log.warning("shadow %s of %s: %s", arm.version, model.release.model, answer)


class ShadowQueue:
    """Predicts copies of requests by the shadow arms, in one thread.

    The thread begins 20 ms after a copy arrives: those that arrive meanwhile share a call, so that shadows take
    little time from the requests that clients wait for. While 64 copies wait, another request is only counted.

    Args:
        predictor: predicts them.
        metrics: counts the requests that were not copied.
    """

    def __init__(self, predictor: SpoolingPredictor, metrics: Metrics) -> None:
        self._predictor, self._metrics = ShadowPredictor(predictor, metrics), metrics
        self._waiting: deque[RequestCopy] = deque()
        self._taken, self._predicted = 0, 0  # copies so far
        self._arrived, self._closed = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="shadows", daemon=True)
        self._thread.start()

    def add(self, copy: RequestCopy) -> None:
        """Adds a copy of a request, or counts that there was no room for it."""
        if len(self._waiting) >= _MAX_WAITING:
            self._metrics.count_shed_shadow()
            return
        self._taken += 1
        self._waiting.append(copy)
        self._arrived.set()

    def close(self) -> None:
        """Returns when the copies that wait have been predicted. None may be added any more.

        After a second it returns nevertheless, for example because the online store does not answer. Then the
        copies that are left are counted as requests that were not copied.
        """
        self._closed.set()
        self._arrived.set()
        self._thread.join(_LONGEST_END)
        if left := self._taken - self._predicted:
            self._metrics.count_shed_shadow(left)
            _log.warning("%d requests were not copied to the shadows: the replica ends", left)

    def _run(self) -> None:
        while not self._closed.is_set():
            self._arrived.wait()
            self._closed.wait(_LINGER)
            self._arrived.clear()
            self._predict_waiting()
        self._predict_waiting()

    def _predict_waiting(self) -> None:
        by_release: dict[int, list[RequestCopy]] = {}
        while self._waiting:
            copy = self._waiting.popleft()
            by_release.setdefault(id(copy.model), []).append(copy)
        for copies in by_release.values():
            self._predictor.predict(copies)
            self._predicted += len(copies)
