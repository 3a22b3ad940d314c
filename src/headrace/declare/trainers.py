"""Trainers: the algorithm that fits a model, and its parameters.

This module only declares; `training.trainers` fits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

__all__ = ["Trainer", "XGBoost"]


@attrs.frozen
class Trainer:
    """The base class of every trainer's declaration.

    Attributes:
        parameters: the library's parameters; a search overrides them by name.
    """

    parameters: Mapping[str, Any] = attrs.field(factory=dict, kw_only=True)


@attrs.frozen(init=False)
class XGBoost(Trainer):
    """Gradient-boosted trees by XGBoost.

    Attributes:
        num_boost_round: the most trees; the fit ends earlier if the validation part stops improving.
        early_stopping_rounds: the number of rounds without improvement that ends the fit.
        parameters: XGBoost's parameters, such as `objective`.
    """

    num_boost_round: int = 300
    early_stopping_rounds: int = 20

    def __init__(self, num_boost_round: int = 300, early_stopping_rounds: int = 20, **parameters: Any) -> None:
        # attrs generates __attrs_init__; XGBoost's parameters are keywords here.
        self.__attrs_init__(num_boost_round, early_stopping_rounds, parameters=parameters)
