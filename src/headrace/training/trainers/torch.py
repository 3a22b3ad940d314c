"""PyTorch: fits a perceptron, on one process or several, and keeps it as `model.npz`."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from headrace.declare.metrics import Task
from headrace.declare.trainers import Torch
from headrace.kernel.counts import plural
from headrace.kernel.errors import Refused
from headrace.kernel.extras import require
from headrace.training.trainers.network import (
    Floats32,
    Network,
    Scale,
    decode_network,
    encode_network,
    split_columns,
)
from headrace.training.trainers.port import (
    Budget,
    Examples,
    Fitted,
    ModelMeta,
    Outputs,
    PredictFunction,
    TrainingData,
)
from headrace.training.trainers.torch_module import export_network, make_module

__all__ = ["MODEL", "TorchTrainer"]

MODEL = "model.npz"
_SLICE = 16_384  # rows whose hidden layers are in memory at once


class TorchTrainer:
    """Implements the port `TrainerPort` by PyTorch."""

    name = "torch"
    declaration = Torch
    is_batch_invariant = False
    prepared_for: tuple[str, ...] = ()

    def preload(self) -> None:
        """A network is loaded and predicts without PyTorch."""

    def prepare(self, data: TrainingData) -> _Tensors:
        """The data as tensors, with numbers imputed and scaled."""
        require("torch", "the trainer Torch")
        return _Tensors(data)

    def fit(
        self,
        data: _Tensors,
        declared: Torch,
        parameters: Mapping[str, Any],
        *,
        seed: int,
        budget: Budget,
    ) -> Fitted:
        """Fits the network on the train part, and keeps the epoch with the least loss on the validation part.

        If torch.distributed is initialized, this process fits together with the others (DDP): each step takes a
        batch that they share. The first process returns the model. Its `chosen` is `epochs`, and its parameter
        `device` the device of the fit. The model itself does not depend on a device.

        Raises:
            ProjectError: a parameter or its value is not valid.
            Refused: the train part has fewer rows than a step needs.
        """
        declared = declared.with_settings(parameters)
        device = _find_device(budget)
        with _run_deterministically(seed, budget.threads, device):
            module, epoch = _fit_module(data, declared, seed, device)
            network = export_network(module, data.scale)
        predict = _predict_function(network, data.source)
        own = {"workers": declared.workers, "seed": seed, "device": _describe(device)}
        parameters = {**declared.settings, **own}
        files = {MODEL: encode_network(network)}
        return Fitted(files, parameters, {"epochs": epoch}, predict(data.source.validation.matrix), {})

    def load(self, folder: Path, meta: ModelMeta) -> PredictFunction:
        """The network's predictions, by numpy."""
        return _predict_function(decode_network(folder / MODEL), meta)


def _predict_function(network: Network, meta: TrainingData | ModelMeta) -> PredictFunction:
    task, encoding = meta.task, meta.encoding

    def predict(matrix: Floats32) -> Outputs:
        slices = [matrix[first : first + _SLICE] for first in range(0, max(1, len(matrix)), _SLICE)]
        outputs = np.concatenate([network.outputs(split_columns(rows, encoding)) for rows in slices])
        if task == "regression":
            return outputs[:, 0]
        if task == "binary":
            return np.asarray(np.exp(-np.logaddexp(0.0, -outputs[:, 0])))
        exponents = np.exp(outputs - outputs.max(axis=1, keepdims=True))
        return np.asarray(exponents / exponents.sum(axis=1, keepdims=True))

    return predict


class _Tensors:
    """The train and the validation part as tensors.

    Attributes:
        source: the data that they were made from.
        scale: the scale of inputs and target, learnt from the train part.
        sizes: the number of values of each column of text.
        train, validation: scaled numbers, codes of text, and the target.
    """

    def __init__(self, data: TrainingData) -> None:
        train = split_columns(data.train.matrix, data.encoding)
        self.source = data
        self.scale = Scale.learn(
            train.numbers, data.train.target.astype(np.float64) if data.task == "regression" else None
        )
        categories = data.encoding.categories
        self.sizes = [len(categories[name]) for name in data.features if name in categories]
        self.train, self.validation = self._to_tensors(data.train), self._to_tensors(data.validation)

    def _to_tensors(self, examples: Examples) -> tuple[Any, Any, Any]:
        import torch

        inputs = split_columns(examples.matrix, self.source.encoding)
        mean, deviation = self.scale.target
        target = (examples.target - mean) / deviation
        return (
            torch.from_numpy(self.scale.apply(inputs.numbers)),
            torch.from_numpy(inputs.codes),
            torch.from_numpy(target.astype(np.int64 if self.source.task == "multiclass" else np.float32)),
        )


def _find_device(budget: Budget) -> Any:
    """The GPU that Ray gave this process, if the fit may use one; else the CPU."""
    import torch

    if budget.gpu and torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def _describe(device: Any) -> str:
    """`cpu`, or `cuda` with the name of the GPU."""
    import torch

    return "cpu" if device.type == "cpu" else f"{device.type} ({torch.cuda.get_device_name(device)})"


def _fit_module(data: _Tensors, declared: Torch, seed: int, device: Any) -> tuple[Any, int]:
    """Fits the module, and returns it with the weights of its best epoch, and the number of that epoch."""
    import torch
    from torch import distributed

    together = distributed.is_available() and distributed.is_initialized()
    rank, processes = (distributed.get_rank(), distributed.get_world_size()) if together else (0, 1)
    rows = len(data.train[0])
    batch = min(declared.batch_size, rows) // processes * processes
    if batch < 2 * processes:
        raise Refused(f"the train part has {plural(rows, 'row')}: too few for {plural(processes, 'worker')}")
    steps = rows // batch
    module = make_module(declared.module, data.scale.means.size, data.sizes, max(1, len(data.source.classes)))
    module.to(device)
    wrapped = torch.nn.parallel.DistributedDataParallel(module) if together else module
    compute_loss = _loss_function(data.source.task, declared.loss)
    optimizer = torch.optim.AdamW(
        module.parameters(), lr=declared.learning_rate, weight_decay=declared.weight_decay
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, declared.epochs * steps)
    best, best_epoch, weights = math.inf, 0, module.state_dict()
    for epoch in range(1, declared.epochs + 1):
        wrapped.train()
        order = torch.randperm(rows, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
        for step in range(steps):  # the rows of the last, incomplete batch wait for another epoch
            part = order[step * batch : (step + 1) * batch][rank::processes]
            numbers, codes, target = (tensor[part].to(device) for tensor in data.train)
            optimizer.zero_grad()
            compute_loss(wrapped(numbers, codes), target).backward()
            torch.nn.utils.clip_grad_norm_(module.parameters(), declared.clip_norm)
            optimizer.step()
            schedule.step()
        loss = _validation_loss(module, data, compute_loss, device, together)
        if loss < best:
            best, best_epoch = loss, epoch
            weights = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        elif declared.patience is not None and epoch - best_epoch >= declared.patience:
            break
    module.load_state_dict(weights)
    return module, best_epoch


def _validation_loss(module: Any, data: _Tensors, compute_loss: Any, device: Any, together: bool) -> float:
    """The first process's loss on the validation part, in every process: all must stop at the same epoch."""
    import torch

    module.eval()
    numbers, codes, target = (tensor.to(device) for tensor in data.validation)
    with torch.no_grad():
        loss = compute_loss(module(numbers, codes), target)
    if together:
        torch.distributed.broadcast(loss, 0)
    return float(loss)


def _loss_function(task: Task, loss: str) -> Any:
    """The function of outputs (n, outputs) and target (n,) that the fit makes small."""
    from torch.nn import functional

    if task == "multiclass":
        return functional.cross_entropy
    of_one: Any = {
        "squared": functional.mse_loss,
        "absolute": functional.l1_loss,
        "huber": functional.huber_loss,
    }[loss]
    if task == "binary":
        of_one = functional.binary_cross_entropy_with_logits
    return lambda outputs, target: of_one(outputs[:, 0], target)


@contextmanager
def _run_deterministically(seed: int, threads: int, device: Any) -> Iterator[None]:
    """Runs the block with PyTorch's random numbers from the seed, this many threads, and deterministic
    algorithms. The process's own settings and random numbers are restored."""
    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it, cuBLAS is not deterministic
    threads_before, mode_before = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    fill_before = torch.utils.deterministic.fill_uninitialized_memory
    with torch.random.fork_rng(devices=[] if device.type == "cpu" else [device]):
        torch.manual_seed(seed)
        torch.set_num_threads(threads)
        torch.set_deterministic_debug_mode("error")
        torch.utils.deterministic.fill_uninitialized_memory = False  # no memory is read before it is written
        try:
            yield
        finally:
            torch.set_num_threads(threads_before)
            torch.set_deterministic_debug_mode(mode_before)
            torch.utils.deterministic.fill_uninitialized_memory = fill_before
