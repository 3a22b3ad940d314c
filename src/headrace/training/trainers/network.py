"""Predicts with a network by numpy, without PyTorch.

Importing PyTorch takes seconds and hundreds of megabytes, and a fitted perceptron is a few matrix products:
batch normalization is a constant factor and offset then, and is folded into the weights. So a process that only
predicts needs numpy alone. It computes in float64, so that a row has the same output alone and among others, to
15 digits.
"""

from __future__ import annotations

import io
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
from msgspec import Struct
from msgspec.structs import fields

from headrace.features.values.matrix import Encoding
from headrace.kernel.errors import HeadraceError

__all__ = ["Floats32", "Inputs", "Network", "Scale", "decode_network", "encode_network", "split_columns"]

Floats32 = npt.NDArray[np.float32]
_Floats = npt.NDArray[np.float64]


class Inputs(Struct, frozen=True):
    """The rows for a network.

    Attributes:
        numbers: float32 (n, numbers), NaN where one is missing.
        codes: int64 (n, texts): the index of the text's value; the number of values where it is missing.
    """

    numbers: Floats32
    codes: npt.NDArray[np.int64]


class Scale(Struct, frozen=True):
    """The scale of a network's inputs and of its output, learnt from the train part.

    Attributes:
        defaults: float32 (numbers,): the median, which replaces a number that is missing.
        means, deviations: float32 (numbers,), of the numbers with the defaults filled in. The deviation of a
            number that does not vary is infinite: nothing was learnt of it, so that it counts as 0.
        target: float64 (2,): mean and standard deviation of a regression's target; else 0 and 1.
    """

    defaults: Floats32
    means: Floats32
    deviations: Floats32
    target: _Floats

    @staticmethod
    def learn(numbers: Floats32, target: _Floats | None) -> Scale:
        """Learns the scale of the numbers and, of a regression, of the target."""
        present = [column[~np.isnan(column)] for column in numbers.T]
        defaults = np.array([np.median(column) if len(column) else 0.0 for column in present], np.float32)
        complete = np.where(np.isnan(numbers), defaults, numbers).astype(np.float64)
        varies = complete.max(axis=0) > complete.min(axis=0)
        moments = np.array([0.0, 1.0] if target is None else [target.mean(), target.std() or 1.0])
        return Scale(
            defaults,
            complete.mean(axis=0).astype(np.float32),
            np.where(varies, complete.std(axis=0), np.inf).astype(np.float32),
            moments,
        )

    def apply(self, numbers: Floats32) -> Floats32:
        """The numbers on the network's scale, complete; float32."""
        complete = np.where(np.isnan(numbers), self.defaults, numbers)
        return (complete - self.means) / self.deviations


class Network(Struct, frozen=True):
    """A fitted perceptron: linear layers with ReLU between them. Threads may share it.

    Attributes:
        scale: of the inputs and the output.
        embeddings: for each column of text, float64 (values + 1, outputs of the first layer): the value's
            contribution to the first layer; the last row is of missing text.
        weights: of each layer, float64 (outputs, inputs); the first layer's inputs are the numbers.
        biases: of each layer, float64 (outputs,).
    """

    scale: Scale
    embeddings: tuple[_Floats, ...]
    weights: tuple[_Floats, ...]
    biases: tuple[_Floats, ...]

    def outputs(self, inputs: Inputs) -> _Floats:
        """The outputs of the last layer on the target's scale, float64 (n, outputs)."""
        values = self.scale.apply(inputs.numbers).astype(np.float64) @ self.weights[0].T + self.biases[0]
        for column, embedding in enumerate(self.embeddings):
            values += embedding[inputs.codes[:, column]]
        for weight, bias in zip(self.weights[1:], self.biases[1:], strict=True):
            np.maximum(values, 0, out=values)
            values = values @ weight.T + bias
        mean, deviation = self.scale.target.tolist()
        outputs: _Floats = values * deviation + mean
        return outputs


def split_columns(matrix: Floats32, encoding: Encoding) -> Inputs:
    """Splits the matrix into its numbers and the codes of its text."""
    is_text = np.array([name in encoding.categories for name in encoding.features], np.bool_)
    sizes = [len(encoding.categories[name]) for name in encoding.features if name in encoding.categories]
    text = matrix[:, is_text]
    codes = np.where(np.isnan(text), np.array(sizes, np.float32), text).astype(np.int64)
    return Inputs(matrix[:, ~is_text], codes)


def encode_network(network: Network) -> bytes:
    """The network as a file of numpy (`.npz`). The same network gives the same bytes."""
    arrays: dict[str, npt.NDArray[np.generic]] = {
        field.name: getattr(network.scale, field.name) for field in fields(Scale)
    }
    for name in ("embeddings", "weights", "biases"):
        arrays |= {f"{name}_{number}": array for number, array in enumerate(getattr(network, name))}
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def decode_network(path: Path) -> Network:
    """Reads a network that `encode_network` wrote. It runs no code of the file.

    Raises:
        HeadraceError: the file does not hold a network.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        scale = Scale(*(arrays.pop(field.name) for field in fields(Scale)))
        layers: dict[str, list[_Floats]] = {"embeddings": [], "weights": [], "biases": []}
        for name, array in arrays.items():  # in the order in which they were written
            layers[name.partition("_")[0]].append(array)
        return Network(scale, **{name: tuple(parts) for name, parts in layers.items()})
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise HeadraceError(f"the network cannot be read: {error}", where=str(path)) from error
