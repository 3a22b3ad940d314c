"""`train-MODEL`: search, fit and evaluation; DVC keeps the bundle's files."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

import msgspec

from headrace.config.settings import Settings
from headrace.flows.build.plots import metrics_file, plots_of, write_metrics, write_plots
from headrace.flows.build.pointers import Pointers
from headrace.flows.build.project_code import ProjectCode
from headrace.flows.build.reasons import LOCK, Parameter, user_parameters
from headrace.flows.build.report import StageReport
from headrace.flows.build.stage import Stage, StageResult
from headrace.kernel.counts import plural
from headrace.kernel.errors import Unavailable
from headrace.kernel.files import move_into_place, write_file

if TYPE_CHECKING:
    from headrace.flows.build.context import BuildContext
    from headrace.training.report import TrainingReport

__all__ = ["TrainStage", "bundle_folder"]


class TrainStage(Stage):
    """Depends on the training set and on how the model is declared to be fitted and judged."""

    kind = "train"
    drift = "its folder has the files of another version"

    @classmethod
    def of_project(cls, code: ProjectCode, settings: Settings) -> list[Self]:
        return [
            cls(
                subject=name,
                deps=(Pointers.path("training_set", name),),
                params=(
                    LOCK,
                    Parameter(f"models.{name}.fit", "parameter"),
                    Parameter(f"models.{name}.gate", "parameter"),
                    *user_parameters(code.params_of(f"models.{name}")),
                ),
                out=Pointers.path(cls.kind, name),
                files=(bundle_folder(name),),
                metrics=(metrics_file(name),),
                plots=plots_of(name, model.task),
            )
            for name, model in code.models.items()
        ]

    def run(self, context: BuildContext) -> StageResult:
        from headrace import registry
        from headrace.training.job import train

        def show(counted: str, done: int, total: int) -> None:
            context.progress(StageReport(self.name, f"{counted}: {done} of {total} done"))

        name, project = self.subject, context.project()
        registered = registry.open(context.settings)
        with suppress(Unavailable):  # the release needs MLflow, the training does not
            registered.check_owner(name)
        champion = context.champion(name)
        trained = train(
            project,
            context.lake,
            project.model(name),
            context.plan(name),
            code=context.code.training_digest(name),
            champion=None if champion is None else registered.bundle(name, champion),
            inputs=context.inputs(name),
            progress=show,
        )
        root, report = context.settings.root, trained.report
        _copy_bundle(trained.bundle, root / bundle_folder(name))
        write_metrics(root, name, trained.metrics)
        if self.plots:
            write_plots(root, name, report.task, report.test)
            _ignore_in_git(root / "plots")
        pointer = {"model": name, "run": report.run, "gate": msgspec.to_builtins(report.gate)}
        context.pointers.write(self.out, pointer)
        metrics = ", ".join(f"{metric} {value:.3f}" for metric, value in report.test.metrics.items())
        baseline = ", ".join(
            f"{metric.replace('_', ' ')} {value:.3f}" for metric, value in report.test.baseline.items()
        )
        return StageResult(
            f"{metrics} ({baseline}){_describe_split(report)}{_describe_omissions(report)}", report.test.rows
        )

    def restore(self, context: BuildContext) -> StageResult:
        return StageResult("restored its files from DVC's cache")  # Pipeline.restore did that


def bundle_folder(model: str) -> str:
    """The folder of a model's newest bundle, relative to the project."""
    return f"models/{model}"


def _describe_split(report: TrainingReport) -> str:
    """The baseline's metrics, and how the rows were divided if not by time."""
    metrics = ", ".join(f"{metric} {value:.3f}" for metric, value in report.baseline.items())
    baseline = f"; the baseline's {metrics}" if metrics else ""
    return baseline if report.boundaries else f"{baseline}; the split is {report.split}"


def _describe_omissions(report: TrainingReport) -> str:
    """The rows and values of the training set that the model did not use."""
    incomplete = plural(report.incomplete, "row")
    text = f"; left out {incomplete} that serving would refuse" if report.incomplete else ""
    if report.infinite:
        counts = ", ".join(f"{name} in {plural(count, 'row')}" for name, count in report.infinite.items())
        text += f"; infinite, and so missing: {counts}"
    return text


def _copy_bundle(bundle: Path, folder: Path) -> None:
    draft = folder.with_name(f".{folder.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    shutil.copytree(bundle, draft)
    if folder.exists():
        shutil.rmtree(folder)
    move_into_place(draft, folder)
    _ignore_in_git(folder.parent)


def _ignore_in_git(folder: Path) -> None:
    """Makes git ignore what is in the folder. DVC does so itself only if there is a git repository already."""
    ignore = folder / ".gitignore"
    if not ignore.is_file():
        write_file(ignore, "/*\n!/.gitignore\n")
