"""Models: the versions that a replica answers with. It follows the releases and swaps arms whole."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct

from headrace import log as logs
from headrace import registry
from headrace.config.settings import Settings
from headrace.features import online
from headrace.features.online import OnlineStore
from headrace.features.online.lookup import Lookup
from headrace.features.plan import FeaturePlan, decode_plan
from headrace.kernel.errors import HeadraceError, Unavailable
from headrace.kernel.files import write_file
from headrace.kernel.private import make_private
from headrace.registry import Registry
from headrace.serving.protocol import Requests
from headrace.serving.release import Arm, Release, Releases
from headrace.serving.split import Split
from headrace.training.files import MODEL, PLAN
from headrace.training.trainers.folder import Predictor, load_model

__all__ = ["Failure", "Loaded", "Models", "Served", "load_version"]

_log = logging.getLogger("headrace.serving")
_AGAIN = 5.0  # seconds until a release that could not be put in place is tried once more


@dataclass(frozen=True)
class Loaded:
    """One version, ready to answer.

    Attributes:
        version: its number.
        plan: its features.
        columns: their names, the order of the model's matrix.
        lookup: finds and computes them.
        predictor: the model itself.
    """

    version: int
    plan: FeaturePlan
    columns: tuple[str, ...]
    lookup: Lookup
    predictor: Predictor


class Failure(Struct, frozen=True):
    """A release that could not be put in place.

    Attributes:
        release: its id.
        why: what went wrong.
    """

    release: str
    why: str


class Served:
    """A release in force: its arms, loaded.

    Attributes:
        release: the record.
        answering: the arms that answer, with their versions.
        shadows: the arms that get copies.
        requests: reads what may be asked.
        customer: the entity key that a customer is told by: the first of the plan.
        entities: every entity key of the answering plans.
    """

    def __init__(self, release: Release, versions: Mapping[int, Loaded]) -> None:
        self.release = release
        self.answering = [(arm, versions[arm.version]) for arm in release.arms if not arm.shadow]
        self.shadows = [(arm, versions[arm.version]) for arm in release.arms if arm.shadow]
        plans = [loaded.plan for _, loaded in self.answering]
        self.requests = Requests(plans, [loaded.plan for _, loaded in self.shadows])
        self.customer = plans[0].entities[0].join_key
        self.entities = frozenset(key.join_key for plan in plans for key in plan.entities)
        self._split = Split(release.model, [arm for arm, _ in self.answering])

    def arm(self, request: Mapping[str, Any]) -> tuple[Arm, Loaded]:
        """The arm that answers this request."""
        return self.answering[self._split.place(request[self.customer])]


class Models:
    """The models of a project, each by its release in force.

    Args:
        settings: of which project.
        names: the models to answer for; empty: every model that is released.

    Attributes:
        served: model → what answers. It is replaced, never changed: take it once a request.
        failed: model → its last release, where that could not be put in place; the one before stays.
    """

    def __init__(self, settings: Settings, names: Sequence[str] = ()) -> None:
        self._settings = settings
        self._names = frozenset(names)
        self._registry = registry.open(settings)
        self._store = online.open(settings.online.url)
        self._log: logs.Log | None = None
        self._releases: Releases | None = None
        self._wanted: dict[str, Release] = {}
        self._kept = settings.place("serving", "releases.json")
        self._tried: dict[str, tuple[str, float]] = {}
        self.served: dict[str, Served] = {}
        self.failed: dict[str, Failure] = {}
        if not self._polled():
            self._wanted = _read(self._kept)
        self._put_in_place()

    def poll(self) -> bool:
        """Puts what was released since the last poll in place. Returns whether anything changed."""
        self._polled()
        return self._put_in_place()

    def largest(self, topic: str) -> int | None:
        """How many bytes a record of the topic may have; None where the log cannot say it now."""
        try:
            return None if self._log is None else self._log.largest(topic)
        except HeadraceError:
            return None

    def close(self) -> None:
        """Ends the connections."""
        self._store.close()
        if self._log is not None:
            self._log.close()

    def _polled(self) -> bool:
        """Whether the log could be read; without it, what is in force stays so."""
        try:
            if self._log is None or self._releases is None:
                self._log = logs.open(self._settings.log.url)
                self._releases = Releases(self._log)
            self._releases.poll()
        except Unavailable as error:
            _log.warning("the releases cannot be read, the last ones stay in force: %s", error.what)
            return False
        self._wanted = self._wanted | self._releases.in_force
        return True

    def _put_in_place(self) -> bool:
        changed = False
        for model, release in self._wanted.items():
            if self._names and model not in self._names:
                continue
            now = self.served.get(model)
            if now is not None and now.release.id == release.id:
                continue
            tried, moment = self._tried.get(model, ("", 0.0))
            if tried == release.id and time.monotonic() - moment < _AGAIN:
                continue
            self._tried[model] = (release.id, time.monotonic())
            try:
                served = Served(release, self._loaded(release, now))
            except Exception as error:  # whatever is wrong with one release, the others are followed
                self.failed = {**self.failed, model: Failure(release.id, _say(error))}
                _log.error("release %s of %s cannot be put in place: %s", release.id, model, error)
                continue
            self.failed = {name: why for name, why in self.failed.items() if name != model}
            self.served = {**self.served, model: served}
            changed = True
        if changed:
            _keep(self._kept, {model: served.release for model, served in self.served.items()})
        return changed

    def _loaded(self, release: Release, now: Served | None) -> dict[int, Loaded]:
        """The versions of the release; those that answer already are taken over."""
        have = {one.version: one for _, one in (*now.answering, *now.shadows)} if now else {}
        return {
            arm.version: have.get(arm.version)
            or load_version(self._registry, self._store, release.model, arm.version)
            for arm in release.arms
        }


def load_version(registry: Registry, store: OnlineStore, model: str, version: int) -> Loaded:
    """One version of a model, checked and ready to answer.

    Raises:
        CallError: there is no such version.
        Refused: its bundle is not what was registered.
        ProjectError: its features cannot be served.
    """
    bundle = registry.bundle(model, version)
    plan = decode_plan((bundle / PLAN).read_bytes())
    store.prepare(plan)
    predictor = load_model(bundle / MODEL)
    columns = tuple(feature.column for feature in plan.features)
    # The first call is slow: not a customer's.
    predictor.predict(np.full((1, len(columns)), np.nan, np.float32))
    return Loaded(version, plan, columns, Lookup(plan, store, predictor.meta.encoding), predictor)


def _say(error: Exception) -> str:
    return str(error) if isinstance(error, HeadraceError) else f"{type(error).__name__}: {error}"


def _read(path: Path) -> dict[str, Release]:
    """The releases that were in force when a replica last ran here."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Release])
    except (FileNotFoundError, msgspec.DecodeError):
        return {}


def _keep(path: Path, releases: Mapping[str, Release]) -> None:
    make_private(path.parent)
    write_file(path, msgspec.json.encode(releases))
