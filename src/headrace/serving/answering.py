"""Answering: from requests to predictions. Each is kept in the spool before it is an answer."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from headrace.features.values.on_demand import OnDemandError
from headrace.http.responses import HttpError
from headrace.kernel.errors import HeadraceError, Unavailable
from headrace.kernel.ids import new_id
from headrace.kernel.time import from_micros, now_micros
from headrace.serving.metrics import Metrics
from headrace.serving.models import Loaded, Served
from headrace.serving.prediction_log import USUAL, Prediction, Spool
from headrace.serving.release import Arm

__all__ = ["Answering"]

_log = logging.getLogger("headrace.serving")
_encode = msgspec.json.Encoder().encode


class Answering:
    """Predicts, counts and keeps. Its methods may be called from several threads.

    Args:
        spool: the folder that predictions are kept in.

    Attributes:
        metrics: what was answered.
        largest: how many bytes a prediction may have on its way to its topic; a larger one is not answered.
    """

    def __init__(self, spool: Path) -> None:
        self._spool = Spool(spool)
        self.largest = USUAL
        self.metrics = Metrics()

    def close(self) -> None:
        """Completes the spool file."""
        self._spool.close()

    def predicted(
        self, served: Served, requests: Sequence[Mapping[str, Any]], explain: bool
    ) -> list[dict[str, Any]]:
        """Answers in the order of the requests; every one is in the spool when this returns."""
        if len(requests) == 1:
            arm, loaded = served.arm(requests[0])
            predictions = self._scored(served, arm, loaded, requests)
        else:
            groups: dict[str, tuple[Arm, Loaded, list[int]]] = {}
            for place, request in enumerate(requests):
                arm, loaded = served.arm(request)
                groups.setdefault(arm.name, (arm, loaded, []))[2].append(place)
            placed: dict[int, Prediction] = {}
            for arm, loaded, places in groups.values():
                scored = self._scored(served, arm, loaded, [requests[place] for place in places], places)
                placed.update(zip(places, scored, strict=True))
            predictions = [placed[place] for place in range(len(requests))]
        self._keep(predictions)
        answers = []
        for one in predictions:
            answer: dict[str, Any] = {
                "id": one.id,
                "model": one.model,
                "version": one.version,
                "arm": one.arm,
                "score": one.score,
                "missing": one.missing,
            }
            if explain:
                answer["features"] = one.features
            answers.append(answer)
        return answers

    def _scored(
        self,
        served: Served,
        arm: Arm,
        loaded: Loaded,
        requests: Sequence[Mapping[str, Any]],
        places: Sequence[int] | None = None,
        answered: Sequence[str] | None = None,
    ) -> list[Prediction]:
        """One arm's predictions.

        Args:
            places: where each request stands among the instances that were sent; None: there is only one.
            answered: for a shadow, the ids of the answers they are copies of.

        Raises:
            HttpError: 422: the model refuses what is missing, or an on-demand function failed. It names the
                instance.
        """
        at = now_micros()
        try:
            found = loaded.lookup.features(requests, at)
        except OnDemandError as error:
            _log.warning("model %s version %d: %s", served.release.model, arm.version, error)
            raise _failed(error, places) from error
        if loaded.plan.missing == "refuse" and any(found.missing):
            raise _refused(found.missing, places)
        scores = loaded.predictor.predict(found.matrix).tolist()
        moment, model, entities = from_micros(at), served.release.model, served.entities
        predictions = []
        for place, (request, values) in enumerate(zip(requests, found.values, strict=True)):
            missing = found.missing[place]
            self.metrics.predicted(model, arm.version, arm.name, missing)
            predictions.append(
                Prediction(
                    id=new_id(),
                    model=model,
                    version=arm.version,
                    arm=arm.name,
                    shadow=arm.shadow,
                    at=moment,
                    entity={key: request[key] for key in request if key in entities},
                    request={key: request[key] for key in request if key not in entities},
                    features=dict(zip(loaded.columns, values, strict=True)),
                    score=scores[place],
                    missing=missing,
                    positions=found.positions[place],
                    release=served.release.id,
                    answers=None if answered is None else answered[place],
                )
            )
        return predictions

    def _keep(self, predictions: Sequence[Prediction]) -> None:
        encoded = [_encode(one) for one in predictions]
        for place, one in enumerate(encoded):
            if len(one) > self.largest:
                raise HttpError(
                    413,
                    "too_large",
                    f"The prediction's record, with the request in it, would have {len(one):,} bytes, and may"
                    f" have {self.largest:,}.",
                    more={"instance": place},
                )
        try:
            self._spool.append(*encoded)
        except OSError as error:  # an answer that nobody could trace is not given
            raise Unavailable(f"the prediction cannot be kept: {error}") from error

    def shadowed(self, served: Served, requests: Sequence[Mapping[str, Any]], answered: Sequence[str]) -> None:
        for arm, loaded in served.shadows:
            try:
                self._keep(self._scored(served, arm, loaded, requests, answered=answered))
            except (HeadraceError, HttpError, ArithmeticError, LookupError, TypeError, ValueError) as error:
                self.metrics.shadow_failed()
                _log.warning("shadow %s of %s: %s", arm.version, served.release.model, error)


def _refused(missing: Sequence[Sequence[str]], places: Sequence[int] | None) -> HttpError:
    rows = [row for row, names in enumerate(missing) if names]
    more: dict[str, Any] = {"missing": sorted({name for names in missing for name in names})}
    text, field = f"The model refuses to answer without {', '.join(missing[rows[0]])}.", None
    if places is not None:
        text, field = f"Instance {places[rows[0]]}: {text}", f"instances[{places[rows[0]]}]"
        more["instances"] = [places[row] for row in rows]
    return HttpError(422, "missing_features", text, field=field, more=more)


def _failed(error: OnDemandError, places: Sequence[int] | None) -> HttpError:
    """What the caller may see of it: which function, on which instance, and no value."""
    text, field = f"The on-demand view {error.where!r} failed; the log of the process says why.", None
    if places is not None and error.row is not None:
        text, field = f"Instance {places[error.row]}: {text}", f"instances[{places[error.row]}]"
    return HttpError(422, "feature_failed", text, field=field, more={"view": error.where})
