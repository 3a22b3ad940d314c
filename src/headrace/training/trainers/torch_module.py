"""The perceptron as a PyTorch module, and as the network that serving loads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from headrace.declare.trainers import MLP
from headrace.training.trainers.network import Network, Scale

__all__ = ["export_network", "make_module"]


def make_module(declared: MLP, numbers: int, sizes: Sequence[int], outputs: int) -> Any:
    """The module, with random weights.

    Args:
        declared: its layers.
        numbers: how many inputs are numbers.
        sizes: for each input of text, how many values it has.
        outputs: how many outputs it has.

    Returns:
        A module that takes numbers, float32 (n, numbers), and codes, int64 (n, texts), and returns float32
        (n, outputs). A linear layer of one-hot encoded text is an embedding, which is looked up instead of
        multiplied.
    """
    import torch
    from torch import nn

    first = declared.hidden[0]

    class Perceptron(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(first))
            self.numbers = nn.Linear(numbers, first, bias=False) if numbers else None
            self.texts = nn.ModuleList(nn.Embedding(size + 1, first, padding_idx=size) for size in sizes)
            layers: list[nn.Module] = []
            for size, following in zip(declared.hidden, (*declared.hidden[1:], outputs), strict=True):
                layers += [nn.BatchNorm1d(size)] if declared.batch_norm else []
                layers += [nn.ReLU(), nn.Dropout(declared.dropout), nn.Linear(size, following)]
            self.layers = nn.Sequential(*layers)

        def forward(self, values: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
            hidden = self.bias.expand(len(values), -1)
            if self.numbers is not None:
                hidden = hidden + self.numbers(values)
            for column, text in enumerate(self.texts):
                hidden = hidden + text(codes[:, column])
            return self.layers(hidden)

    return Perceptron()


def export_network(module: Any, scale: Scale) -> Network:
    """The fitted module as a network, with each batch normalization folded into the layer before it."""
    from torch import nn

    def array(tensor: Any) -> Any:
        return tensor.detach().cpu().numpy().astype(np.float64)

    embeddings = [array(text.weight) for text in module.texts]
    biases = [array(module.bias)]
    weights = [np.zeros((len(biases[0]), 0)) if module.numbers is None else array(module.numbers.weight)]
    for layer in module.layers:
        if isinstance(layer, nn.Linear):
            weights.append(array(layer.weight))
            biases.append(array(layer.bias))
        elif isinstance(layer, nn.BatchNorm1d):
            factor = array(layer.weight) / np.sqrt(array(layer.running_var) + layer.eps)
            biases[-1] = (biases[-1] - array(layer.running_mean)) * factor + array(layer.bias)
            weights[-1] = weights[-1] * factor[:, None]
            if len(weights) == 1:
                embeddings = [embedding * factor for embedding in embeddings]
    return Network(scale, tuple(embeddings), tuple(weights), tuple(biases))
