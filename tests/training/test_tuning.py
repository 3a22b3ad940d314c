"""The search: its trials, and the mean over several folds."""

import itertools
from pathlib import Path

import attrs
import msgspec
import numpy as np
import pytest
from sklearn.naive_bayes import GaussianNB

from headrace.cluster.connection import connect
from headrace.declare.model import Model
from headrace.declare.search import ChoiceSpace, Tune, choice
from headrace.declare.trainers import MLP, Sklearn, Torch, Trainer
from headrace.features.values.matrix import Encoding
from headrace.projects.project import Project
from headrace.training.evaluation import evaluator_for
from headrace.training.matrices import Matrices
from headrace.training.report import Trial
from headrace.training.trainers import trainer_for
from headrace.training.trainers.port import Budget, Examples, TrainingData
from headrace.training.tuning import search

DEPTHS = (1, 4)


def make_fold(seed: int) -> TrainingData:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(600, 2)).astype(np.float32)
    y = (rng.random(600) < 1 / (1 + np.exp(-2 * x[:, 0] * x[:, 1]))).astype(np.float32)
    return TrainingData(
        "binary", Encoding(("a", "b")), (), Examples(x[:400], y[:400]), Examples(x[400:], y[400:])
    )


def test_a_trial_has_the_mean_metric_of_all_folds(project: Project, model: Model, tmp_path: Path) -> None:
    folds = (make_fold(1), make_fold(2))
    tune = Tune("roc_auc", n_trials=4, space={"max_depth": choice(*DEPTHS)}, seed=5)
    matrices = Matrices(Encoding(("a", "b")), folds, tuple(fold.validation for fold in folds))
    with connect(project.settings):
        trials = search(matrices, attrs.evolve(model, tune=tune), tune, tmp_path / "ray")
    trainer, evaluator = trainer_for(model.trainer), evaluator_for("binary")
    expected = {}
    for depth in DEPTHS:
        fits = [
            trainer.fit(trainer.prepare(fold), model.trainer, {"max_depth": depth}, seed=5, budget=Budget())
            for fold in folds
        ]
        values = [
            evaluator.metric("roc_auc", fold.validation.target, fit.validation)
            for fold, fit in zip(folds, fits, strict=True)
        ]
        expected[depth] = (sum(values) / 2, fits[-1].chosen)
    assert len(trials) == 4
    for trial in trials:
        value, chosen = expected[trial.parameters["max_depth"]]
        assert trial.value == pytest.approx(value, abs=1e-12)
        assert trial.chosen == chosen
    assert trials[0].value == max(trial.value for trial in trials)


def test_a_grid_tries_every_combination_once(project: Project, model: Model, tmp_path: Path) -> None:
    space = {"max_depth": choice(1, 4), "learning_rate": choice(0.1, 0.3, 0.5)}
    tune = Tune("roc_auc", n_trials=None, space=space)
    folds = (make_fold(1),)
    matrices = Matrices(Encoding(("a", "b")), folds, tuple(fold.validation for fold in folds))
    done: list[tuple[str, int, int]] = []
    with connect(project.settings):
        trials = search(
            matrices, attrs.evolve(model, tune=tune), tune, tmp_path / "ray", lambda *step: done.append(step)
        )
    tried = sorted((trial.parameters["max_depth"], trial.parameters["learning_rate"]) for trial in trials)
    assert tried == sorted(itertools.product((1, 4), (0.1, 0.3, 0.5)))
    assert done[-1] == ("trials", 6, 6)
    assert trials[0].value == max(trial.value for trial in trials)


@pytest.mark.parametrize(
    ("declared", "space"),
    [
        (Sklearn(GaussianNB()), {"var_smoothing": choice(1e308, 1e-9)}),
        (Torch(MLP((4,)), epochs=2, batch_size=64), {"learning_rate": choice(1e30, 0.01)}),
    ],
    ids=["sklearn", "torch"],
)
def test_a_trial_whose_outputs_are_nan_is_last_and_its_report_can_be_read(
    project: Project, model: Model, tmp_path: Path, declared: Trainer, space: dict[str, ChoiceSpace]
) -> None:
    """The first value of the space makes every output NaN. test_job has one of XGBoost."""
    if isinstance(declared, Torch):
        pytest.importorskip("torch", reason="the extra torch is not installed: make torch")
    tune, folds = Tune("log_loss", n_trials=None, space=space), (make_fold(1),)
    matrices = Matrices(Encoding(("a", "b")), folds, tuple(fold.validation for fold in folds))
    with connect(project.settings):
        trials = search(matrices, attrs.evolve(model, trainer=declared, tune=tune), tune, tmp_path / "ray")
    ((name, values),) = space.items()
    assert [trial.parameters for trial in trials] == [{name: value} for value in reversed(values.values)]
    assert [trial.value is None for trial in trials] == [False, True]
    assert msgspec.json.decode(msgspec.json.encode(trials), type=list[Trial]) == trials
