"""Models: the models of a replica, released ones and MLflow models.

It follows the releases, and activates each whole or not at all.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from headrace import log as logs
from headrace import registry
from headrace.config.settings import Settings
from headrace.features import online
from headrace.features.online.lookup import Lookup
from headrace.features.plan import FeaturePlan
from headrace.kernel.errors import HeadraceError, Unavailable
from headrace.kernel.position import LogPosition
from headrace.serving.errors import UnknownModel, UnknownService, WrongValue, unknown_version
from headrace.serving.kept import find_kept_releases, read_kept_releases, write_kept_releases
from headrace.serving.mlflow_models.served import ServedModel, ServedModels
from headrace.serving.prepared import remove_unneeded
from headrace.serving.release import Arm, Release, ReleaseFollower, find_restored
from headrace.serving.request_schema import RequestSchema
from headrace.serving.servable import Servable, check_filled, load_servable
from headrace.serving.split import TrafficSplit, find_split_key, split_value

__all__ = ["Models", "ReleaseFailure", "ReleasedModel", "ReleasedService"]

_log = logging.getLogger("headrace.serving")
_RETRY = 5.0  # seconds until a release that could not be activated is tried again


class ReleaseFailure(Struct, frozen=True):
    """A release that could not be activated.

    Attributes:
        release: its id.
        why: what went wrong.
    """

    release: str
    why: str


class ReleasedService:
    """The feature service of a release: the features of its champion, or of its first arm that answers.

    Args:
        servable: the version.

    Attributes:
        version: the number of the version.
        plan: its feature plan.
        lookup: looks up and computes the features.
        schema: the fields of an entity: the plan's entity keys and request fields.
    """

    def __init__(self, servable: Servable) -> None:
        self.version = servable.version
        self.plan: FeaturePlan = servable.plan
        self.lookup: Lookup = servable.lookup
        self.schema = RequestSchema([servable.plan], gives_features=False)

    @property
    def definition(self) -> FeaturePlan:
        """What its answers depend on: the plan without its model's name and policy for missing features."""
        return msgspec.structs.replace(self.plan, model="", missing="model")


class ReleasedModel:
    """A release in force, with a loaded servable for each of its arms.

    Args:
        release: the record.
        servables: version → servable, for every version of the release.

    Attributes:
        release: the record.
        answering: the arms that answer, with their servables.
        shadows: the shadow arms, with their servables.
        schema: the fields of an instance.
        split_key: the entity key whose value determines the arm: the first key of the plan. None: the plan
            has no entities. The whole instance determines the arm if it has no such key.
        entities: every entity key of the answering plans.
        service: its feature service.
        is_compared: whether a canary decides by the latencies of the arms.
    """

    def __init__(self, release: Release, servables: Mapping[int, Servable]) -> None:
        self.release = release
        self.answering = [(arm, servables[arm.version]) for arm in release.arms if not arm.shadow]
        self.shadows = [(arm, servables[arm.version]) for arm in release.arms if arm.shadow]
        plans = [servable.plan for _, servable in self.answering]
        self.schema = RequestSchema(plans, [servable.plan for _, servable in self.shadows])
        self.split_key = find_split_key(plans)
        self.entities = frozenset(key.join_key for plan in plans for key in plan.entities)
        self.service = ReleasedService(self.answering[0][1])
        self.is_compared = release.canary is not None and len(self.answering) > 1
        self._split = TrafficSplit(release.model, [arm for arm, _ in self.answering])

    def find_arm(self, instance: Mapping[str, Any]) -> tuple[Arm, Servable]:
        """The arm that answers this instance."""
        return self.answering[self._split.index(split_value(instance, self.split_key))]

    @property
    def versions(self) -> list[int]:
        """The versions that answer."""
        return [arm.version for arm, _ in self.answering]

    def find_arm_of_version(self, version: str) -> tuple[Arm, Servable]:
        """The arm that answers by this version, which the request names. Raises UnknownVersion."""
        for arm, servable in self.answering:
            if str(arm.version) == version:
                return arm, servable
        raise unknown_version(self.release.model, version, self.versions)


class Models:
    """The models of a project, each by its release in force.

    Args:
        settings: the project's settings.
        names: the models to predict; empty: every model that is released.
        served: the MLflow models; None: there are none.
        keeps_releases: whether the releases in force are written down for the next start without a log. Of
            several processes that follow them, one must not put back what another has replaced.

    Attributes:
        settings: the project's settings.
        selected: the models to predict; empty: every model that is released.
        waits: whether a prediction waits for another server, the online store.
        released: model → its release in force. The mapping is replaced, never changed.
        failed: model → its last release, if it could not be activated; the release before it stays in force.
        unfilled: model → why it cannot answer: the online store holds no values of a view of its release.
    """

    def __init__(
        self,
        settings: Settings,
        names: Sequence[str] = (),
        served: ServedModels | None = None,
        *,
        keeps_releases: bool = True,
    ) -> None:
        self._served = served
        self._keeps_releases, self._is_unkept = keeps_releases, False
        self.settings = settings
        self.selected = frozenset(names)
        self._registry = registry.open(settings)
        self._store = online.open(settings)
        self.waits = not settings.online.is_local
        self._log: logs.Log | None = None
        self._releases: ReleaseFollower | None = None
        self._latest: dict[str, Release] = {}
        self._file = find_kept_releases(settings)
        self._attempts: dict[str, tuple[str, float]] = {}  # model → release, time of the attempt (monotonic)
        self.released: dict[str, ReleasedModel] = {}
        self.failed: dict[str, ReleaseFailure] = {}
        self.unfilled: dict[str, str] = {}
        self._next_check = 0.0  # of `unfilled`, monotonic
        self._kept = read_kept_releases(self._file)
        self._poll_releases()
        self._latest = self._kept | self._latest  # the log may be away, or new
        self._activate_latest()
        for name in self.failed:
            self._activate_earlier(name)
        self._check_filled()

    @property
    def names(self) -> list[str]:
        """The names of the models that answer."""
        return sorted({*self.released, *self.served})

    @property
    def served(self) -> Mapping[str, ServedModel]:
        """The MLflow models, by name."""
        return {} if self._served is None else self._served.models

    def has(self, name: str) -> bool:
        """Whether there is a model of this name, even if none of its releases could be activated."""
        return name in self.served or name in self.released or name in self.failed

    def find(self, name: str) -> ReleasedModel | ServedModel:
        """The model's release in force, or the MLflow model of this name.

        Raises:
            UnknownModel: the model was never released.
            Unavailable: none of its releases could be activated.
        """
        model = self.released.get(name)
        if model is None:
            if name in self.served:
                return self.served[name]
            failure = self.failed.get(name)
            if failure is not None:
                raise Unavailable(f"no release of model {name!r} could be activated: {failure.why}")
            raise UnknownModel(
                f"Model {name!r} is not released here.",
                field="model",
                details={"models": self.names},
            )
        return model

    def check_ready(self, name: str) -> None:
        """Checks that the model can answer.

        Raises:
            UnknownModel, Unavailable: as `find`, or a view of its release has no values.
        """
        self.find(name)
        if name in self.unfilled:
            raise Unavailable(self.unfilled[name])

    def find_only(self) -> ReleasedModel | ServedModel:
        """The only model.

        Raises:
            UnknownModel: there are several models, or none.
            Unavailable: none of its releases could be activated.
        """
        names = sorted({*self.names, *self.failed})
        if len(names) != 1:
            raise UnknownModel(
                "The path must name one of several models." if names else "No model is released here.",
                field="model",
                details={"models": names},
            )
        return self.find(names[0])

    @property
    def services(self) -> list[ReleasedService]:
        """The feature services of the released models, by the name of the model."""
        return [model.service for _, model in sorted(self.released.items()) if model.service.plan.service]

    def find_service(self, name: str, model: str | None = None) -> ReleasedService:
        """The feature service of this name.

        Args:
            name: the service.
            model: the model whose release serves it. None: any, if all that use the service have the same
                features.

        Raises:
            UnknownService: no released model has features of this service.
            UnknownModel: the model was never released.
            WrongValue: the releases of several models have different features of this service.
            Unavailable: a release could not be activated, so its service is not known.
        """
        if model is not None and model not in self.released:
            self.find(model)
        services = [service for service in self.services if service.plan.service == name]
        if model is not None:
            services = [service for service in services if service.plan.model == model]
        if not services:
            failed = self.failed.keys() - self.released.keys()
            if failed and model is None:
                raise Unavailable(
                    f"no released model has features of service {name!r}, and no release of"
                    f" {', '.join(sorted(failed))} could be activated"
                )
            raise UnknownService(
                f"No released model{'' if model is None else f' {model!r}'} has features of service {name!r}.",
                field="service",
                details={"services": sorted({service.plan.service for service in self.services})},
            )
        first, *others = services
        if any(service.definition != first.definition for service in others):
            raise WrongValue(
                f"The releases of several models have different features of service {name!r}: name the model.",
                field="model",
                details={"models": [service.plan.model for service in services]},
            )
        return first

    def poll(self) -> bool:
        """Activates what was released since the last poll. Returns whether anything changed."""
        self._store.drop_known_rows()
        if self._served is not None:
            self._served.poll()
        self._poll_releases()
        changed = self._activate_latest()
        if changed or time.monotonic() >= self._next_check:
            self._check_filled()
        return changed

    def max_record_bytes(self, topic: str) -> int | None:
        """The largest record that the topic accepts; None while the log is unavailable."""
        try:
            return None if self._log is None else self._log.largest(topic)
        except HeadraceError:
            return None

    def count_events_behind(self) -> dict[tuple[str, int, str], int]:
        """Model, version, windowed view → how many events of its topic the online store has yet to take.

        Raises:
            HeadraceError: the log or the online store does not answer.
        """
        arms = [
            (name, arm, servable.plan)
            for name, model in self.released.items()
            for arm, servable in (*model.answering, *model.shadows)
            if servable.plan.windowed
        ]
        if not arms or self._log is None:
            return {}
        positions, behind = self._store.positions(), {}
        for name, arm, plan in arms:
            for view in plan.windowed:
                position = positions.get(view.digest)
                if isinstance(position, LogPosition):
                    left = logs.lag(self._log, view.topic, position.offsets)
                    behind[name, arm.version, view.name] = sum(left.values())
        return behind

    def close(self) -> None:
        """Closes the connections."""
        self._store.close()
        if self._served is not None:
            self._served.close()
        if self._log is not None:
            self._log.close()

    def _poll_releases(self) -> None:
        """Reads new releases from the log, if it is available."""
        try:
            if self._log is None or self._releases is None:
                self._log = logs.open(self.settings.log.url)
                self._releases = ReleaseFollower(self._log)
            self._releases.poll()
        except Unavailable as error:
            _log.warning("the releases cannot be read, the last ones stay in force: %s", error.what)
            return
        self._latest = self._latest | self._releases.in_force

    def _check_filled(self) -> None:
        """Finds the models whose views have no values; while the store does not answer, nothing changes."""
        self._next_check = time.monotonic() + _RETRY
        unfilled = {}
        try:
            filled = self._store.positions()
        except HeadraceError:
            return
        for name, model in self.released.items():
            try:
                for _, servable in model.answering:
                    check_filled(filled, servable.plan)
            except Unavailable as error:
                unfilled[name] = str(error)
        self.unfilled = unfilled

    def _activate_latest(self) -> bool:
        """Activates the latest release of each model. Returns whether anything changed."""
        changed = False
        for name, release in self._latest.items():
            if (not self.selected or name in self.selected) and self._is_due(name, release):
                changed |= self._activate(name, release)
        if self._keeps_releases and (changed or self._is_unkept):
            self._keep_releases()
        if changed and self._keeps_releases and self._releases is not None:  # only the log tells of a rollback
            remove_unneeded(self._registry, _list_needed(self.released, self._releases))
        return changed

    def _keep_releases(self) -> None:
        """Writes the releases in force down for the next start; if that fails, the next poll tries again."""
        # A model without a release in force keeps the one that it had.
        releases = {name: release for name, release in self._kept.items() if name in self.failed}
        releases |= {name: model.release for name, model in self.released.items()}
        self._is_unkept = not write_kept_releases(self._file, releases, is_retry=self._is_unkept)

    def _activate_earlier(self, name: str) -> None:
        """Activates what answered before a release that cannot be activated at the start: the one that was
        kept, or else the newest of those that rollbacks would restore."""
        kept = self._kept.get(name)
        records = [] if self._releases is None else self._releases.histories.get(name, [])
        is_active = kept is not None and kept.id != self.failed[name].release and self._activate(name, kept)
        while not is_active and (release := find_restored(records)) is not None:
            is_active = self._activate(name, release)
            records = records[: records.index(release) + 1]

    def _is_due(self, name: str, release: Release) -> bool:
        current = self.released.get(name)
        if current is not None and current.release.id == release.id:
            return False
        attempted, moment = self._attempts.get(name, ("", 0.0))
        return attempted != release.id or time.monotonic() - moment >= _RETRY

    def _activate(self, name: str, release: Release) -> bool:
        self._attempts[name] = (release.id, time.monotonic())
        try:
            model = ReleasedModel(release, self._load_servables(release))
        except Exception as error:  # a broken release of one model must not stop the others
            _log.error("release %s of %s cannot be activated: %s", release.id, name, error)
            if release.id == self._latest[name].id:
                self.failed = {**self.failed, name: ReleaseFailure(release.id, _describe(error))}
            return False
        if release.id == self._latest[name].id:
            self.failed = {other: failure for other, failure in self.failed.items() if other != name}
        self.released = {**self.released, name: model}
        return True

    def _load_servables(self, release: Release) -> dict[int, Servable]:
        """The versions of the release. Versions of the release in force are reused.

        If there is a release to stay with, the views of the others must have values.
        """
        current = self.released.get(release.model)
        arms = (*current.answering, *current.shadows) if current else ()
        servables = {servable.version: servable for _, servable in arms}
        kept = self._kept.get(release.model)
        has_working = current is not None or (kept is not None and kept.id != release.id)
        for version in {arm.version for arm in release.arms} - servables.keys():
            servable = load_servable(self._registry, self._store, release.model, version)
            if has_working:
                check_filled(self._store.positions(), servable.plan)
            servables[version] = servable
        return servables


def _list_needed(released: Mapping[str, ReleasedModel], followed: ReleaseFollower) -> list[tuple[str, int]]:
    """Model and version, of every release in force and of those that rollbacks would restore."""
    releases = [model.release for model in released.values()]
    for records in followed.histories.values():
        restored = find_restored(records)
        releases += [records[-1]] if restored is None else [records[-1], restored]
    return sorted({(release.model, arm.version) for release in releases for arm in release.arms})


def _describe(error: Exception) -> str:
    return str(error) if isinstance(error, HeadraceError) else f"{type(error).__name__}: {error}"
