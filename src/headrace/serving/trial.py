"""Trial: loads a release and predicts with it, as a replica would, before it is put in force."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

from headrace import registry as registries
from headrace.config.settings import Settings
from headrace.features import online
from headrace.kernel.errors import HeadraceError, Refused, Unavailable
from headrace.kernel.time import now_micros
from headrace.serving.models import ReleasedModel
from headrace.serving.release import Release
from headrace.serving.servable import Servable, check_filled, find_no_numbers, load_servable

__all__ = ["try_release"]

_Instances = Sequence[Mapping[str, Any]]


def try_release(settings: Settings, release: Release, instances: Mapping[int, _Instances]) -> None:
    """Loads every version of the release and predicts with it.

    Args:
        settings: the project's settings.
        release: the release to try. It is not put in force.
        instances: version → entity keys and request fields of real rows to predict. A version without
            instances is only loaded, and its views are checked.

    Raises:
        Refused: a version cannot be loaded or cannot predict, or the versions cannot answer the same requests;
            the error names the version and the reason.
        Unavailable: the registry or the online store cannot be reached, or a view has no values yet.
    """
    registry = registries.open(settings)
    with closing(online.open(settings)) as store:
        servables = {}
        for version in sorted({arm.version for arm in release.arms}):
            try:
                servables[version] = load_servable(registry, store, release.model, version)
                check_filled(store.positions(), servables[version].plan)
                _predict(servables[version], instances.get(version, ()))
            except Unavailable as error:
                raise Unavailable(
                    f"version {version} of model {release.model!r} cannot be tried: {error.what}",
                    where=error.where,
                    remedy=error.remedy,
                ) from error
            except (HeadraceError, ArithmeticError, LookupError, OSError, TypeError, ValueError) as error:
                raise _refusal(release.model, f"version {version}", error) from error
        try:
            ReleasedModel(release, servables)
        except (HeadraceError, LookupError, TypeError, ValueError) as error:
            raise _refusal(release.model, "the arms together", error) from error


def _predict(servable: Servable, instances: _Instances) -> None:
    if not instances:
        return
    answers = servable.lookup.features(instances, now_micros())
    values = servable.predictor.predict(answers.matrix)
    if invalid := find_no_numbers(values):
        raise ValueError(f"it predicts {values[invalid[0]]} for {dict(instances[invalid[0]])}")


def _refusal(model: str, subject: str, error: Exception) -> Refused:
    known = error if isinstance(error, HeadraceError) else None
    return Refused(
        f"{subject} of model {model!r} cannot answer requests: "
        + (known.what if known else f"{type(error).__name__}: {error}"),
        where=known.where if known else None,
        remedy=(known.remedy if known else None) or "Nothing was released; the present release stays in force.",
    )
