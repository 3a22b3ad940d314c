"""The stage graph, from what pointers/code.json says, and dvc.yaml as its written form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from headrace.flows.build.pointers import CODE, Pointers
from headrace.kernel.errors import CallError

__all__ = ["Stage", "bundle_folder", "dvc_yaml", "needs_of", "stages_for", "stages_of", "table_pointer"]

Kind = Literal["code", "table", "features", "online", "inputs", "training_set", "train", "release"]


@dataclass(frozen=True)
class Stage:
    """One stage of the build.

    Attributes:
        name: as in dvc.yaml: its kind, and after a hyphen what it is about.
        kind: what is done.
        subject: the table or model, or nothing.
        deps: files it depends on, relative to the project.
        params: keys of pointers/code.json whose values it depends on.
        out: the pointer it writes.
        files: what it makes beside that, kept by DVC.
    """

    name: str
    kind: Kind
    subject: str
    deps: tuple[str, ...]
    params: tuple[str, ...]
    out: str
    files: tuple[str, ...] = ()


def bundle_folder(model: str) -> str:
    """Where the build leaves the newest bundle of a model."""
    return f"models/{model}"


def table_pointer(code: dict[str, Any], name: str) -> str:
    """The pointer of a table in the lake: a declared one, or a topic's."""
    return Pointers.path("tables" if name in code["tables"] else "topics", name)


def stages_of(code: dict[str, Any], project: str, extra: tuple[str, ...] = ()) -> list[Stage]:
    """Every stage, each after those it depends on.

    Args:
        code: what pointers/code.json holds.
        project: the project's package.
        extra: further files the code depends on: headrace.toml, a lock.
    """
    stages = [Stage("code", "code", "", (project, *extra), (), CODE)]

    for name in code["tables"]:
        reads = code["reads"][name]
        contracts = tuple(f"contracts.{one}" for kind, one in reads if kind == "topics")
        deps = tuple(Pointers.path(kind, one) for kind, one in reads)
        stages.append(
            Stage(
                f"table-{name}",
                "table",
                name,
                deps,
                ("lock", f"tables.{name}", *contracts),
                table_pointer(code, name),
            )
        )
    if not code["models"]:
        return stages
    features = "pointers/features.json"
    views = sorted({view for model in code["models"].values() for view in model["views"]})
    # The stage writes the plans, which depend on the models as well as on Feast's objects.
    plans = tuple(f"models.{name}.plan" for name in code["models"])
    stages.append(Stage("features", "features", "", (), ("lock", "features", *plans), features))
    online = (features, *(table_pointer(code, view) for view in views))
    stages.append(Stage("online", "online", "", online, (), "pointers/online.json"))
    for name, model in code["models"].items():
        stages += _of_model(
            name,
            tuple(table_pointer(code, one) for one in sorted({model["labels"], *model["views"]})),
            features,
        )
    return stages


def _of_model(name: str, tables: tuple[str, ...], features: str) -> list[Stage]:
    kinds = ("inputs", "training_set", "train", "release")
    inputs, made, trained, released = (Pointers.path(kind, name) for kind in kinds)
    plan = f"models.{name}.plan"
    return [
        Stage(f"inputs-{name}", "inputs", name, tables, (plan, f"models.{name}.set"), inputs),
        Stage(
            f"training_set-{name}",
            "training_set",
            name,
            (inputs, features),
            ("lock", plan, f"models.{name}.set"),
            made,
        ),
        Stage(
            f"train-{name}",
            "train",
            name,
            (made,),
            ("lock", f"models.{name}.fit", f"models.{name}.gate"),
            trained,
            (bundle_folder(name),),
        ),
        Stage(f"release-{name}", "release", name, (trained,), (), released),
    ]


def stages_for(stages: list[Stage], targets: tuple[str, ...]) -> list[Stage]:
    """The stages that the targets need, themselves included, in order. No targets: all.

    A target is a stage, a table, or a model (all stages up to its release).

    Raises:
        CallError: there is no such target.
    """
    if not targets:
        return stages
    by_name = {stage.name: stage for stage in stages}
    wanted: set[str] = set()
    waiting = [_named(stages, target) for target in targets]
    while waiting:
        stage = waiting.pop()
        if stage.name in wanted:
            continue
        wanted.add(stage.name)
        waiting += [by_name[name] for name in needs_of(stages, stage)]
        if stage.kind == "release":  # a model that is released is also served
            waiting += [one for one in stages if one.kind == "online"]
    return [stage for stage in stages if stage.name in wanted]


def needs_of(stages: list[Stage], stage: Stage) -> tuple[str, ...]:
    """The names of the stages that this one depends on directly."""
    made_by = {one.out: one.name for one in stages}
    needs = [*stage.deps, *([CODE] if stage.params else [])]
    return tuple(made_by[path] for path in needs if path in made_by)


def _named(stages: list[Stage], target: str) -> Stage:
    found = {s.name: s for s in stages}
    for name in (target, f"table-{target}", f"release-{target}"):
        if name in found:
            return found[name]
    subjects = sorted({s.subject for s in stages if s.subject})
    raise CallError(
        f"there is nothing {target!r} to build",
        remedy=f"Tables and models: {', '.join(subjects)}. Stages: {', '.join(found)}.",
    )


def dvc_yaml(stages: list[Stage]) -> str:
    """The graph as DVC reads it."""
    lines = [
        "# Written by `headrace build` from the project's declarations: change those, not this.",
        "stages:",
    ]
    for stage in stages:
        lines += [f"  {stage.name}:", f"    cmd: headrace run-stage {stage.name}"]
        if stage.deps:
            lines += ["    deps:", *(f"    - {one}" for one in stage.deps)]
        if stage.params:
            lines += ["    params:", f"    - {CODE}:", *(f"      - {one}" for one in stage.params)]
        lines += ["    outs:", f"    - {stage.out}:", "        cache: false", "        persist: true"]
        lines += [f"    - {one}" for one in stage.files]
    return "\n".join(lines) + "\n"
