"""check leakage: finds features that read the future of a label, and features that know the target."""

from __future__ import annotations

from msgspec import Struct

from headrace.declare.metrics import Task
from headrace.features.checks.future import FutureCheck, check_future
from headrace.features.plan import decode_plan
from headrace.flows.build.pointers import Pointers
from headrace.kernel.errors import CallError
from headrace.training.leakage import MEASURES, FeatureScore, score_features
from headrace.training.splits.port import MOMENT
from headrace.training.training_set import find_task
from headrace.workspace import Workspace

__all__ = ["LeakageReport", "leakage"]


class LeakageReport(Struct, frozen=True):
    """How well each feature of a model predicts the target alone.

    Attributes:
        model: the model.
        task: its task.
        measure: what a score is.
        rows: how many labelled rows were read.
        bound: the score from which a feature leaks.
        features: the features, the highest score first.
        future: what came of changing the rows after labels; None: it was not checked.
    """

    model: str
    task: Task
    measure: str
    rows: int
    bound: float
    features: list[FeatureScore]
    future: FutureCheck | None = None

    @property
    def leaking(self) -> list[FeatureScore]:
        """The features that predict the target too well."""
        return [feature for feature in self.features if feature.leaks]

    @property
    def finds_leaks(self) -> bool:
        """Whether a feature knows the target too well, or reads the future."""
        return bool(self.leaking or (self.future is not None and self.future.moved))


def leakage(workspace: Workspace, name: str, *, bound: float = 0.95, moments: int = 2) -> LeakageReport:
    """Scores each feature of the model's newest training set alone, and changes the future of its labels.

    Args:
        workspace: the project to work on.
        name: the model.
        bound: the score from which a feature leaks.
        moments: after how many instants rows are changed, to find features that read the future; 0: none.

    Raises:
        CallError: the bound is not from 0 to 1, the model does not exist, or its training set was not built or
            lacks a feature of its plan.
        Refused: the training set has too few rows.
        ProjectError: a function failed when the tables were made once more.
    """
    if not 0 <= bound <= 1:
        raise CallError(f"the bound {bound} is not a score from 0 to 1")
    project = workspace.whole_project
    model = project.model(name)
    table, path = f"training_{name}", workspace.settings.root / Pointers.path("plans", name)
    snapshot = workspace.lake.table(table).current_snapshot() if workspace.lake.table_exists(table) else None
    if snapshot is None or not path.exists():
        raise CallError(f"model {name!r} has no training set yet", remedy="headrace build")
    plan = decode_plan(path.read_bytes())
    features = [feature.column for feature in plan.features]
    scan = workspace.lake.table(table).scan(snapshot.id)
    missing = [feature for feature in features if feature not in scan.collect_schema()]
    if missing:
        raise CallError(
            f"the training set of model {name!r} lacks {', '.join(missing)}",
            where=f"table {table}",
            remedy="headrace build",
        )
    ordered = [MOMENT] if MOMENT in scan.collect_schema() else []
    columns = list(dict.fromkeys([*ordered, model.target, *features]))
    rows = (
        scan.select(columns)
        .drop_nulls(model.target)
        .sort([*ordered, model.target], maintain_order=True)
        .collect()
    )
    task = find_task(model, rows[model.target])
    scores = score_features(rows, features, model.target, task, bound=bound)
    future = check_future(project, workspace.lake, model, plan, count=moments) if moments else None
    return LeakageReport(name, task, MEASURES[task], len(rows), bound, scores, future)
