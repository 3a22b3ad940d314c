"""The same forecast by a neural network: labels, features, split and gate are those of the other model."""

import attrs
from sales.models import sales

from headrace import MLP, Torch

sales_network = attrs.evolve(
    sales,
    name="sales_network",
    trainer=Torch(
        MLP((256, 128, 64), dropout=0.2),
        epochs=2,
        batch_size=1024,
        learning_rate=2e-3,
        loss="absolute",
        workers=2,
    ),
)
