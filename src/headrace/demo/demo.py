"""demo: runs an example end to end in a scratch folder, times its steps and checks its promises.

This frame makes the project, measures and reports. The steps are in the example's `demo.py`, in a function
`run(demo)` that gets a Demo and uses only the public API. A demo whose steps before `up` do not use Ray sets
`NEEDS_RAY = False`.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

from msgspec import Struct, field

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


class Step(Struct):
    """One step. The block of `Demo.step` may set `what` and `rows`.

    Attributes:
        name: the command.
        what: what it did, in words.
        rows: how many rows it made; None if it makes no rows.
        seconds: wall time.
    """

    name: str
    what: str = ""
    rows: int | None = None
    seconds: float = 0.0


class Check(Struct, frozen=True):
    """A promise of the demo, and whether it was kept."""

    what: str
    passed: bool


class DemoOptions(Struct, frozen=True):
    """The options of a demo.

    Attributes:
        rows: how many rows or events to generate; None: the example's own number.
        seed: the seed of the generator.
        data: a file or folder of real data to use instead of generated data.
    """

    rows: int | None = None
    seed: int = 7
    data: Path | None = None


class DemoReport(Struct):
    """The summary of a demo.

    Attributes:
        example: the name of the example.
        folder: the folder of the scratch project.
        steps: the steps, in order.
        checks: the promises, and whether each was kept.
        facts: the measurements of the example, by name.
        notes: the measurements in sentences, for people.
        commands: commands with their arguments, to continue with the project.
        seconds: wall time of the whole demo.
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
"""Called with a step when it is done, and with None and its name when it begins."""


class Demo:
    """The argument of an example's `run(demo)`.

    Attributes:
        project: the example's project, with free ports for its servers.
        options: the options of this demo.
        stage: the stage that began last in the last build.
        report: the summary so far. An example adds its `facts`, `notes` and `commands`.
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
        """Times the block as a step and reports it. If the block fails, no step is added."""
        step = Step(name, what)
        self._progress(None, name)
        start = time.perf_counter()
        yield step
        step.seconds = time.perf_counter() - start
        self._add(step)

    def check(self, what: str, passed: bool) -> None:
        """Records whether a promise was kept. If one was not, the demo fails at its end."""
        self.report.checks.append(Check(what, bool(passed)))

    def build(self, *, override: str | None = None) -> BuildReport:
        """Runs `headrace build` and reports each stage as an indented step.

        Raises:
            HeadraceError: like `OpenProject.build`.
        """
        return self.project.build(override=override, progress=self._on_stage)

    @contextmanager
    def up(self) -> Iterator[Up]:
        """Runs `headrace up` during the block, with one step for its start and one for its end."""
        with ExitStack() as stack:
            with self.step("up") as step:
                up = stack.enter_context(self.project.up())
                step.what = f"predict {up.predict}, collector {up.collector}"
            yield up
            with self.step("down", "everything that up started has ended"):
                stack.close()

    def client(self, url: str) -> JsonClient:
        """An HTTP client for a server of `up`, to use as a context manager."""
        return JsonClient(url)

    def change_code(self, variant: str, reason: str) -> None:
        """Replaces files of the project by those in `variants/VARIANT`, as a user would edit them."""
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
    """Runs an example's demo in `folder`, which must be empty or absent. At the end no process is left running.

    Args:
        example: a name of `flows.project.init.examples` that has a demo.py.
        folder: the folder of the scratch project, which is kept.
        options: the options of the demo.
        profile: the profile of the example to run on.
        progress: called as each step begins and ends.

    Raises:
        CallError: the demo does not exist, or the folder is not empty.
        HeadraceError: a step failed.
    """
    demos = {name for name, source in examples().items() if (source / FILE).is_file()}
    if example not in demos:
        raise CallError(f"demo {example!r} does not exist", remedy=f"Choose one: {', '.join(sorted(demos))}.")
    start = time.perf_counter()
    report = DemoReport(example, folder)
    init(folder, example)
    settings = _use_free_ports(load_settings(folder, profile))
    demo = Demo(settings, options, report, progress)
    demo._add(Step("init", f"project {example} in {folder}", None, time.perf_counter() - start))
    module = _load(example, folder)
    with keep_ray(settings) if getattr(module, "NEEDS_RAY", True) else nullcontext():
        module.run(demo)
    report.seconds = time.perf_counter() - start
    return report


def _load(example: str, folder: Path) -> ModuleType:
    """Loads demo.py of the project, which may import other modules of its folder."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    spec = importlib.util.spec_from_file_location(f"{example}_demo", folder / FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # a dataclass looks up its module
    spec.loader.exec_module(module)
    return module


def _use_free_ports(settings: Settings) -> Settings:
    """The settings with ports that the system chooses, because other projects may run on this machine."""
    return settings.with_values(predict_port=0, collector_port=0, console_port=0)
