"""Trial: a release is tried as a replica would run it, before it is put in force."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

import numpy as np

from headrace import registry as registries
from headrace.config.settings import Settings
from headrace.features import online
from headrace.features.online import OnlineStore
from headrace.features.plan import FeaturePlan
from headrace.kernel.errors import HeadraceError, Refused, Unavailable
from headrace.kernel.time import now_micros
from headrace.serving.models import Loaded, Served, load_version
from headrace.serving.release import Release

__all__ = ["try_release"]

Request = Mapping[str, Any]


def try_release(settings: Settings, release: Release, requests_of: Mapping[int, Sequence[Request]]) -> None:
    """Loads every version of the release, and lets each predict: bundle, plan, lookup, predictor.

    Args:
        settings: of which project.
        release: what is to be put in force; nothing is written.
        requests_of: version → requests to try it on: entity keys and request fields of real rows. A version
            without any is only loaded, and its views looked at.

    Raises:
        Refused: a version cannot be loaded or cannot predict, or versions cannot answer the same requests;
            the error names it and says why.
        Unavailable: the registry or the online store is away, or a view holds no values yet.
    """
    registry = registries.open(settings)
    with closing(online.open(settings.online.url)) as store:
        loaded = {}
        for version in sorted({arm.version for arm in release.arms}):
            try:
                loaded[version] = load_version(registry, store, release.model, version)
                _check_filled(store, loaded[version].plan)
                _predict(loaded[version], requests_of.get(version, ()))
            except Unavailable as error:
                raise Unavailable(
                    f"version {version} of model {release.model!r} cannot be tried: {error.what}",
                    where=error.where,
                    remedy=error.remedy,
                ) from error
            except (HeadraceError, ArithmeticError, LookupError, OSError, TypeError, ValueError) as error:
                raise _refuse(release.model, f"version {version}", error) from error
        try:
            Served(release, loaded)
        except (HeadraceError, LookupError, TypeError, ValueError) as error:
            raise _refuse(release.model, "the arms together", error) from error


def _check_filled(store: OnlineStore, plan: FeaturePlan) -> None:
    for view in plan.stored:
        if store.position(view) is None:
            raise Unavailable(
                f"view {view.name!r} holds no values yet",
                where=f"model {plan.model}",
                remedy="Fill it first: headrace build online",
            )


def _predict(loaded: Loaded, requests: Sequence[Request]) -> None:
    if not requests:
        return
    answers = loaded.lookup.features(requests, now_micros())
    predictions = loaded.predictor.predict(answers.matrix)
    bad = np.flatnonzero(~np.isfinite(predictions))
    if len(bad):
        raise ValueError(f"it predicts {predictions[bad[0]]} for {dict(requests[bad[0]])}")


def _refuse(model: str, what: str, error: Exception) -> Refused:
    known = error if isinstance(error, HeadraceError) else None
    return Refused(
        f"{what} of model {model!r} cannot answer requests: "
        + (known.what if known else f"{type(error).__name__}: {error}"),
        where=known.where if known else None,
        remedy=(known.remedy if known else None) or "Nothing was released; what answered before still does.",
    )
