"""The Torch trainer: its network in numpy, its workers, its best epoch, and its scale."""

import subprocess
import sys
from pathlib import Path

import attrs
import msgspec.structs
import numpy as np
import pytest

from headrace.cluster.connection import connect
from headrace.declare.model import Model
from headrace.declare.trainers import MLP, Torch
from headrace.features.values.matrix import Encoding
from headrace.kernel.errors import HeadraceError, ProjectError, Refused
from headrace.projects.project import Project
from headrace.training.fit import _gpu_share, _torch_backend, fit_folds
from headrace.training.trainers.folder import load_model, save_model
from headrace.training.trainers.network import Scale, split_columns
from headrace.training.trainers.port import Budget, Examples, Fitted, ModelMeta, TrainingData
from headrace.training.trainers.torch import MODEL, TorchTrainer

torch = pytest.importorskip("torch", reason="the extra torch is not installed: make torch")

TRAINER = TorchTrainer()
KINDS = tuple("abcdef")
ENCODING = Encoding(("size", "kind", "offset"), {"kind": KINDS})
SMALL = Torch(MLP((16, 8), dropout=0.0), epochs=8, batch_size=64, learning_rate=0.01)


def make_data(rows: int = 1200, target_scale: float = 1.0, target_offset: float = 0.0) -> TrainingData:
    """A number with missing values, text, and a number far from 0 that varies little beside its size."""
    rng = np.random.default_rng(11)
    size, kind = rng.normal(size=rows), rng.integers(0, len(KINDS), rows)
    offset = 5_000 + rng.normal(size=rows)
    signal = size + (kind - 2.5) / 2 + (offset - 5_000) + 0.1 * rng.normal(size=rows)
    matrix = np.column_stack([size, kind, offset]).astype(np.float32)
    matrix[rng.random(rows) < 0.05, 0] = np.nan
    matrix[rng.random(rows) < 0.05, 1] = np.nan
    target = signal * target_scale + target_offset
    cut = rows * 2 // 3
    parts = Examples(matrix[:cut], target[:cut]), Examples(matrix[cut:], target[cut:])
    return TrainingData("regression", ENCODING, (), *parts)


def fit(declared: Torch, data: TrainingData, seed: int = 1, **parameters: object) -> Fitted:
    return TRAINER.fit(TRAINER.prepare(data), declared, parameters, seed=seed, budget=Budget())


def r2(data: TrainingData, outputs: np.ndarray) -> float:
    """Of the rows of the validation part that lack nothing."""
    known = ~np.isnan(data.validation.matrix).any(axis=1)
    target = data.validation.target[known]
    return 1 - float(np.sum((target - outputs[known]) ** 2) / np.sum((target - target.mean()) ** 2))


@pytest.mark.parametrize("batch_norm", [True, False])
def test_the_network_of_numpy_gives_the_outputs_of_the_module(batch_norm: bool) -> None:
    from headrace.training.trainers.torch_module import export_network, make_module

    generator = torch.Generator().manual_seed(3)
    module = make_module(MLP((7, 5), 0.3, batch_norm), 2, [len(KINDS)], 3)
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():  # weights, and the moments of the batch normalization
            tensor.data = torch.rand(tensor.shape, generator=generator) + 0.1
    module.texts[0].weight.data[-1] = 0
    module.eval()
    inputs = split_columns(make_data().train.matrix, ENCODING)
    scale = Scale.learn(inputs.numbers, None)
    with torch.no_grad():
        numbers, codes = torch.from_numpy(scale.apply(inputs.numbers)), torch.from_numpy(inputs.codes)
        expected = module(numbers, codes).numpy()
    np.testing.assert_allclose(export_network(module, scale).outputs(inputs), expected, rtol=1e-4, atol=1e-5)


def test_the_scale_is_that_of_the_train_part_alone() -> None:
    numbers = np.array([[1, 5], [np.nan, 5], [3, 5], [8, np.nan]], np.float32)
    scale = Scale.learn(numbers, np.array([2.0, 4.0]))
    assert scale.defaults.tolist() == [3, 5]
    assert scale.means.tolist() == [3.75, 5]
    assert scale.deviations.tolist() == pytest.approx([np.std([1, 3, 3, 8]), np.inf])
    assert scale.target.tolist() == [3, 1]
    data = make_data()
    other = msgspec.structs.replace(
        data, validation=Examples(data.validation.matrix * 9, data.validation.target * 9)
    )
    assert TRAINER.prepare(data).scale.means.tolist() == TRAINER.prepare(other).scale.means.tolist()


@pytest.mark.parametrize("train", [[np.nan, np.nan, np.nan], [0.1, 0.1, 0.1], [0.1, np.nan, 0.1]])
def test_a_number_that_did_not_vary_in_training_has_no_effect_later(train: list[float]) -> None:
    scale = Scale.learn(np.array([train], np.float32).T, None)
    later = np.array([[0.1], [5_000.0], [-3e38], [np.nan]], np.float32)
    assert scale.apply(later).tolist() == [[0], [0], [0], [0]]


def test_a_target_far_from_0_is_learnt() -> None:
    data = make_data(target_scale=5_000, target_offset=2e6)
    assert r2(data, fit(SMALL, data).validation) > 0.95


def test_the_best_epoch_is_kept() -> None:
    data = make_data()
    fitted = fit(SMALL, data)
    best = int(fitted.chosen["epochs"])
    errors = []
    for epochs in range(1, 9):  # the schedule must be the same: the fit is ended early instead
        stopped = attrs.evolve(SMALL, epochs=8)
        errors.append(validation_error(stopped, data, epochs))
    assert int(np.argmin(errors)) + 1 == best
    error = float(np.mean((fitted.validation - data.validation.target) ** 2))
    assert error == pytest.approx(min(errors), rel=1e-4)


def validation_error(declared: Torch, data: TrainingData, epoch: int) -> float:
    """The error after an epoch, by a validation part in which no later epoch counts as better."""
    from headrace.training.trainers import torch as module

    losses: list[float] = []
    original = module._validation_loss

    def stop_after(*arguments: object) -> float:
        losses.append(original(*arguments))
        return -1.0 if len(losses) == epoch else float("inf")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_validation_loss", stop_after)
        fitted = fit(declared, data)
    return float(np.mean((fitted.validation - data.validation.target) ** 2))


def test_patience_ends_a_fit_that_does_not_improve() -> None:
    data = make_data()
    noise = Examples(data.validation.matrix, data.validation.target[::-1].copy())
    data = msgspec.structs.replace(data, validation=noise)
    fitted = fit(attrs.evolve(SMALL, epochs=200, patience=3), data)
    assert fitted.chosen["epochs"] < 20


def test_a_search_overrides_fields_and_those_of_the_module() -> None:
    fitted = fit(SMALL, make_data(200), epochs=2, module__hidden=(4,), module__dropout=0.5)
    assert fitted.parameters["module__hidden"] == (4,)
    assert (fitted.parameters["epochs"], fitted.parameters["batch_size"]) == (2, 64)
    with pytest.raises(ProjectError, match="Torch does not have the parameter 'dropout'") as error:
        fit(SMALL, make_data(200), dropout=0.5)
    assert error.value.remedy is not None
    assert "module__dropout" in error.value.remedy


@pytest.mark.parametrize("loss", ["squared", "absolute", "huber"])
def test_a_loss_is_the_one_that_is_declared(loss: str) -> None:
    """With one extreme target in ten the mean is far from the median: only a squared loss moves there."""
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(2_000, 1)).astype(np.float32)
    target = np.where(rng.random(2_000) < 0.1, 100.0, 0.0)
    examples = Examples(matrix, target)
    data = TrainingData("regression", Encoding(("size",)), (), examples, examples)
    declared = Torch(MLP((4,), 0.0), epochs=15, batch_size=100, learning_rate=0.03, loss=loss)
    middle = float(np.median(fit(declared, data).validation))
    assert middle == pytest.approx(10, abs=4) if loss == "squared" else middle < 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs=0 must be positive"),
        ({"learning_rate": float("nan")}, "learning_rate=nan must be positive"),
        ({"weight_decay": -1}, "weight_decay=-1 must not be negative"),
        ({"patience": 0}, "patience=0 must be 1 or more"),
        ({"loss": "mse"}, "loss='mse' is not a valid loss"),
    ],
)
def test_a_value_out_of_its_range_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ProjectError, match=message):
        Torch(**options)
    with pytest.raises(ProjectError, match="hidden"):
        MLP(())
    with pytest.raises(ProjectError, match="dropout=1"):
        MLP(dropout=1)


def test_too_few_rows_are_refused() -> None:
    data = make_data(200)
    tiny = msgspec.structs.replace(data, train=Examples(data.train.matrix[:1], data.train.target[:1]))
    with pytest.raises(Refused, match="the train part has 1 row: too few"):
        fit(SMALL, tiny)


def test_features_of_text_alone_are_learnt() -> None:
    data = make_data()
    encoding = Encoding(("kind",), {"kind": KINDS})
    parts = (
        Examples(part.matrix[:, 1:2], np.nan_to_num(part.matrix[:, 1]))
        for part in (data.train, data.validation)
    )
    data = TrainingData("regression", encoding, (), *parts)
    assert r2(data, fit(SMALL, data).validation) > 0.95


def test_a_folder_that_holds_no_network_is_an_error(tmp_path: Path) -> None:
    meta = ModelMeta(trainer="torch", task="regression", encoding=ENCODING)
    for content in (b"", b"PK", b"nonsense" * 50):
        save_model(tmp_path, {MODEL: content}, meta)
        with pytest.raises(HeadraceError, match="the network cannot be read"):
            load_model(tmp_path)
    save_model(tmp_path, {}, meta)
    (tmp_path / MODEL).unlink()
    with pytest.raises(HeadraceError, match="the network cannot be read"):
        load_model(tmp_path)


def test_a_pickle_in_the_file_is_not_loaded(tmp_path: Path) -> None:
    np.savez(tmp_path / "bad.npz", defaults=np.array([object()], dtype=object))
    meta = ModelMeta(trainer="torch", task="regression", encoding=ENCODING)
    save_model(tmp_path, {MODEL: (tmp_path / "bad.npz").read_bytes()}, meta)
    with pytest.raises(HeadraceError, match="allow_pickle"):
        load_model(tmp_path)


def test_prediction_loads_neither_pytorch_nor_ray(tmp_path: Path) -> None:
    data = make_data()
    meta = ModelMeta(trainer="torch", task="regression", encoding=ENCODING)
    save_model(tmp_path, fit(SMALL, data).files, meta)
    code = (
        "import sys, numpy as np; from pathlib import Path;"
        "from headrace.training.trainers.folder import load_model;"
        "load_model(Path(sys.argv[1])).predict(np.zeros((1, 3), np.float32));"
        "print([m for m in ('torch', 'ray', 'sklearn', 'scipy', 'pandas', 'polars') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=300, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("processes", "gpus", "share"),
    [(1, 0, 0), (2, 0, 0), (1, 1, 1), (1, 8, 1), (2, 2, 1), (2, 1, 0.5), (3, 2, 0.5), (5, 2, 1 / 3)],
)
def test_each_worker_has_a_gpu_or_its_share_of_one(processes: int, gpus: float, share: float) -> None:
    assert _gpu_share(processes, gpus) == pytest.approx(share)
    assert processes <= gpus * (1 / share if share else 0) or gpus == 0


def test_nccl_is_for_workers_that_have_a_gpu_each() -> None:
    assert _torch_backend(0).backend == _torch_backend(0.5).backend == "gloo"
    assert (_torch_backend(1).backend == "nccl") == torch.distributed.is_nccl_available()


def test_the_report_names_the_device() -> None:
    assert fit(SMALL, make_data(200)).parameters["device"] == "cpu"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU")
def test_a_gpu_fits_the_model_of_the_cpu_and_the_same_one_again(tmp_path: Path) -> None:
    data = make_data()
    prepared = TRAINER.prepare(data)
    first, second = (TRAINER.fit(prepared, SMALL, {}, seed=1, budget=Budget(gpu=True)) for _ in range(2))
    assert first.files == second.files
    assert first.parameters["device"] == f"cuda ({torch.cuda.get_device_name()})"
    np.testing.assert_allclose(first.validation, fit(SMALL, data).validation, atol=0.1)


def test_two_workers_fit_one_model_and_the_same_one_again(
    project: Project, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They share the one GPU that Ray is told of, which PyTorch may not find."""
    monkeypatch.setenv("RAY_OVERRIDE_RESOURCES", '{"GPU": 1}')
    data = make_data(2_000)
    declared = attrs.evolve(model, tune=None, trainer=attrs.evolve(SMALL, workers=2))
    with connect(project.settings):
        first, second = fit_folds((data, data), declared, {}, tmp_path, seed=4)
        tiny = Examples(data.train.matrix[:3], data.train.target[:3])
        with pytest.raises(Refused, match="the train part has 3 rows: too few for 2 workers"):
            fit_folds((msgspec.structs.replace(data, train=tiny),), declared, {}, tmp_path, seed=4)
    assert first.files == second.files
    assert first.parameters["workers"] == 2
    assert r2(data, first.validation) > 0.95
    alone = fit(SMALL, data, seed=4)
    assert alone.files != first.files  # each worker normalizes over its own half of a batch
    np.testing.assert_allclose(first.validation, alone.validation, atol=0.5)
