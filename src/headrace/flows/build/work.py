"""What each kind of stage does. It reads pointers, works, and writes its own pointer last."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

from headrace.code.fingerprint import digest
from headrace.config.settings import Settings
from headrace.flows.build import refresh
from headrace.flows.build.code import code_of, fingerprint_of, is_current, text_digest
from headrace.flows.build.graph import Stage, table_pointer
from headrace.flows.build.pointers import CODE, Pointers
from headrace.flows.build.standing import IN_LAKE, note
from headrace.kernel.errors import ProjectError
from headrace.kernel.time import now
from headrace.projects.project import Project, load_project

if TYPE_CHECKING:
    from headrace.lake import Lake

__all__ = ["Done", "Workshop", "bring_back", "inputs_code", "work"]


@dataclass(frozen=True)
class Done:
    """What a stage did: in words, and in rows where it makes rows."""

    what: str
    rows: int | None = None


@dataclass
class Workshop:
    """What the stages of one process share, each made when it is first needed.

    Attributes:
        settings: whose project.
        override: why a version that the gate refuses is released all the same, or None.
        by: who builds.
    """

    settings: Settings
    override: str | None = None
    by: str = "build"
    _projects: dict[bool, Project] = field(default_factory=dict)

    @cached_property
    def pointers(self) -> Pointers:
        """The project's pointers."""
        return Pointers(self.settings.root)

    @cached_property
    def code(self) -> dict[str, Any]:
        """The project's fingerprints: those recorded, if its code is still the same, else anew."""
        return self.recorded_code() or code_of(self.project(), self.settings, self.text)

    def recorded_code(self) -> dict[str, Any] | None:
        """The fingerprints recorded by the last build; None where the project's code has changed since."""
        recorded = self.pointers.read(CODE)
        return recorded if recorded is not None and is_current(recorded, self.settings, self.text) else None

    @cached_property
    def text(self) -> str:
        """The digest of the project's files when this process first looked at them."""
        return text_digest(self.settings)

    @cached_property
    def lake(self) -> Lake:
        """The lake."""
        from headrace import lake

        return lake.open(self.settings)

    def project(self, *, features: bool = True) -> Project:
        """The project; without features and models it loads 5 s faster.

        Raises:
            ProjectError: a file was edited since the fingerprints were taken, so that what is built would
                be recorded as the work of another code.
        """
        if True in self._projects:
            return self._projects[True]
        if features not in self._projects:
            text = self.text  # before the modules are loaded
            if features:
                import headrace.features.feast  # noqa: F401  (before the project's modules: quicker)
            project = load_project(self.settings, without=() if features else ("feast",))
            if text_digest(self.settings) != text:
                raise ProjectError(
                    "the project's code was edited while it was being read",
                    where=str(self.settings.root / self.settings.project),
                    remedy="Start again: nothing was built of half an edit.",
                )
            self._projects[features] = project
        return self._projects[features]

    def snapshot(self, table: str) -> int:
        """The snapshot that the table's pointer names.

        Raises:
            ProjectError: there is no pointer yet.
        """
        path = table_pointer(self.code, table)
        held = self.pointers.read(path)
        if held is None:
            raise ProjectError("there is no such pointer", where=path, remedy="headrace build makes it.")
        return int(held["snapshot"])

    def inputs_of(self, model: str) -> dict[str, int]:
        """What the model is made from: table → the snapshot its pointer names."""
        told = self.code["models"][model]
        return {name: self.snapshot(name) for name in sorted({told["labels"], *told["views"]})}

    def taken_because(self, model: str, inputs: dict[str, int]) -> str | None:
        """Why the model takes these inputs now, or None (see refresh)."""
        return refresh.taken_because(
            self.pointers.read(Pointers.path("inputs", model)),
            inputs,
            inputs_code(self.code, model),
            timedelta(seconds=self.code["models"][model]["refresh"]),
            trained=self.pointers.read(Pointers.path("train", model)) is not None,
        )


def inputs_code(code: dict[str, Any], model: str) -> str:
    """The fingerprint of what decides a model's training set, data aside."""
    told = code["models"][model]
    tables = [code["tables"].get(name) for name in sorted({told["labels"], *told["views"]})]
    return digest([told["plan"], told["set"], tables])


def work(shop: Workshop, stage: Stage) -> Done:
    """Does the stage's work.

    Raises:
        HeadraceError: as the room that does it.
    """
    done = _WORK[stage.kind](shop, stage)
    note(shop.settings, stage)
    return done


def bring_back(shop: Workshop, stage: Stage) -> Done:
    """Makes what the stage keeps outside of git what its pointer says; nothing else of it has changed.

    Raises:
        HeadraceError: as the room that does it.
    """
    if stage.kind == "train":  # DVC has put its files back
        note(shop.settings, stage)
        return Done("its files are back, from DVC's cache")
    if stage.kind not in IN_LAKE:
        return work(shop, stage)
    held = shop.pointers.read(stage.out)
    assert held is not None
    snapshot = shop.lake.table(held["table"]).rollback_to_snapshot(int(held["snapshot"]))
    return Done(f"back at the rows of {snapshot.at:%Y-%m-%d %H:%M:%S} UTC", snapshot.rows)


def _code(shop: Workshop, stage: Stage) -> Done:
    shop.pointers.write(stage.out, shop.code)
    count = len(shop.code["tables"]) + len(shop.code["models"])
    return Done(f"fingerprints of {count} declarations")


def _table(shop: Workshop, stage: Stage) -> Done:
    from headrace.tables.build import build_table

    name = stage.subject
    at = {one: shop.snapshot(one) for kind, one in shop.code["reads"][name] if kind != "sources"}
    project = shop.project(features=False)
    built = build_table(project, shop.lake, project.table(name), code=_table_code(shop.code, name), at=at)
    shop.pointers.write(stage.out, {"table": name, "snapshot": built.snapshot, "rows": built.rows})
    if built.skipped:
        return Done("was up to date", built.rows)
    days = "all of it" if built.days is None else f"{len(built.days)} day{'s' * (len(built.days) != 1)}"
    return Done(f"made {days}: {'; '.join(built.because)}", built.rows)


def _table_code(code: dict[str, Any], name: str) -> str:
    contracts = [code["contracts"][one] for kind, one in code["reads"][name] if kind == "topics"]
    return digest([code["lock"], fingerprint_of(code["tables"][name]), contracts])


def _inputs(shop: Workshop, stage: Stage) -> Done:
    model = stage.subject
    inputs = shop.inputs_of(model)
    why = shop.taken_because(model, inputs)
    if why is None:
        held = shop.pointers.read(stage.out)
        same = held is not None and held["snapshots"] == inputs
        return Done("no newer inputs" if same else "newer inputs wait until those taken are old enough")
    shop.pointers.write(
        stage.out, {"snapshots": inputs, "taken": now().isoformat(), "code": inputs_code(shop.code, model)}
    )
    return Done(f"took the newest inputs: {why}")


def _of_model(name: str) -> Callable[[Workshop, Stage], Done]:
    """A stage of models, which brings in what tables do not need (Feast, Ray, MLflow) when it runs."""

    def called(shop: Workshop, stage: Stage) -> Done:
        done: Done = getattr(importlib.import_module("headrace.flows.build.model_work"), name)(shop, stage)
        return done

    return called


_WORK: dict[str, Callable[[Workshop, Stage], Done]] = {
    "code": _code,
    "table": _table,
    "inputs": _inputs,
    "features": _of_model("features"),
    "online": _of_model("online"),
    "training_set": _of_model("training_set"),
    "train": _of_model("train"),
    "release": _of_model("release"),
}
