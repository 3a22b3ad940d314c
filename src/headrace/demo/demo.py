"""demo: runs an example end to end in a scratch folder, times its steps and checks what it promises.

The frame makes the project, measures and reports. What is done lies in the example's `demo.py`, in a function
`run(demo)` that is given a Demo and uses the public API alone.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from headrace.api import OpenProject
from headrace.config.settings import Settings, load_settings
from headrace.demo.client import JsonClient
from headrace.demo.ray import keep_ray
from headrace.flows.build import BuildReport, StageReport
from headrace.flows.project.init import examples, init
from headrace.kernel.errors import CallError
from headrace.projects.running import Up

__all__ = ["Check", "Demo", "DemoOptions", "DemoReport", "Step", "run_demo"]

FILE = "demo.py"
VARIANTS = "variants"


@dataclass
class Step:
    """One step. The block of `Demo.step` may set `what` and `rows`.

    Attributes:
        name: the verb.
        what: what it did, in words.
        rows: how many rows it made; None where it makes no rows.
        seconds: wall time.
    """

    name: str
    what: str = ""
    rows: int | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class Check:
    """Something that the demo promises, and whether it was kept."""

    what: str
    passed: bool


@dataclass(frozen=True)
class DemoOptions:
    """What the caller asks of the example.

    Attributes:
        events: how many events to generate; None: as many as the example chooses.
        seed: of the generator.
        data: a file of real data to use instead of generated events.
    """

    events: int | None = None
    seed: int = 7
    data: Path | None = None


@dataclass
class DemoReport:
    """The summary of a demo.

    Attributes:
        example: its name.
        folder: the scratch project.
        steps: what was done.
        checks: what was promised, and whether it was kept.
        facts: what the example measured, by name.
        notes: the same in sentences, for people.
        commands: verbs with their arguments that go on from here.
        seconds: wall time of the whole.
    """

    example: str
    folder: Path
    steps: list[Step] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    commands: list[str] = field(default_factory=lambda: ["up", "status"])
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)


Progress = Callable[[Step | None, str], None]
"""Called with a step that is done; or, with None and a name, when a step begins."""


class Demo:
    """What an example's `run(demo)` is given.

    Attributes:
        project: the example's project, with free ports for its servers.
        options: what the caller asks of the example.
        stage: the stage of the last build that began last.
        report: the summary so far; an example adds its `facts`, `notes` and `commands`.
    """

    def __init__(
        self, settings: Settings, options: DemoOptions, report: DemoReport, progress: Progress
    ) -> None:
        self.project = OpenProject(settings)
        self.options, self.report = options, report
        self.stage = ""
        self._progress = progress

    @property
    def folder(self) -> Path:
        """The project's folder."""
        return self.report.folder

    @contextmanager
    def step(self, name: str, what: str = "") -> Iterator[Step]:
        """Times the block as a step and reports it. A block that fails adds no step."""
        step = Step(name, what)
        self._progress(None, name)
        begun = time.perf_counter()
        yield step
        step.seconds = time.perf_counter() - begun
        self._add(step)

    def check(self, what: str, passed: bool) -> None:
        """Records whether a promise was kept. The demo fails at its end where a promise did not."""
        self.report.checks.append(Check(what, bool(passed)))

    def build(self, *, override: str | None = None) -> BuildReport:
        """`headrace build`, each stage reported as an indented step.

        Raises:
            HeadraceError: as `OpenProject.build`.
        """
        return self.project.build(override=override, progress=self._on_stage)

    @contextmanager
    def up(self) -> Iterator[Up]:
        """`headrace up` while the block runs, with a step for its start and one for its end."""
        with ExitStack() as stack:
            with self.step("up") as step:
                up = stack.enter_context(self.project.up())
                step.what = f"predict {up.predict}, collector {up.collector}"
            yield up
            with self.step("down", "everything that up started has ended"):
                stack.close()

    def client(self, url: str) -> JsonClient:
        """A client for JSON over one connection to a server of `up`. Use it as a context manager."""
        return JsonClient(url)

    def change_code(self, variant: str, reason: str) -> None:
        """Replaces files of the project by those of `variants/VARIANT`, as a user would edit them."""
        source = self.folder / VARIANTS / variant
        files = sorted(str(file.relative_to(source)) for file in source.rglob("*") if file.is_file())
        with self.step("  edit", f"{reason}; {', '.join(files)} as in {VARIANTS}/{variant}"):
            shutil.copytree(source, self.folder, dirs_exist_ok=True)

    def _on_stage(self, stage: StageReport) -> None:
        self.stage = stage.stage
        if stage.seconds is None:
            self._progress(None, f"build {stage.stage}")
        else:
            self._add(Step(f"  {stage.stage}", stage.what, stage.rows, stage.seconds))

    def _add(self, step: Step) -> None:
        self.report.steps.append(step)
        self._progress(step, "")


def run_demo(
    example: str, folder: Path, options: DemoOptions, *, profile: str | None = None, progress: Progress
) -> DemoReport:
    """Runs an example's demo in `folder`, which must be empty or absent. Nothing is left running.

    Args:
        example: a name of `flows.project.init.examples` that has a demo.py.
        folder: the scratch project; it stays.
        options: what the example is asked to do.
        profile: the profile of the example to run on.
        progress: called as each step begins and ends.

    Raises:
        CallError: there is no such demo, or the folder is not empty.
        HeadraceError: a step failed.
    """
    demos = {name for name, source in examples().items() if (source / FILE).is_file()}
    if example not in demos:
        raise CallError(f"there is no demo {example!r}", remedy=f"Choose one: {', '.join(sorted(demos))}.")
    begun = time.perf_counter()
    report = DemoReport(example, folder)
    init(folder, example)
    settings = _use_free_ports(load_settings(folder, profile))
    demo = Demo(settings, options, report, progress)
    demo._add(Step("init", f"project {example} in {folder}", None, time.perf_counter() - begun))
    with keep_ray(settings):
        _load(example, folder).run(demo)
    report.seconds = time.perf_counter() - begun
    return report


def _load(example: str, folder: Path) -> ModuleType:
    """The module demo.py of the project, which may import other modules beside it."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    spec = importlib.util.spec_from_file_location(f"{example}_demo", folder / FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _use_free_ports(settings: Settings) -> Settings:
    """The settings with ports that the system chooses: other projects may run on this machine."""
    return settings.with_values(predict_port=0, collector_port=0, console_port=0)
