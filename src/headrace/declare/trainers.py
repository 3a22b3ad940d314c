"""Trainers: which algorithm fits a model, and with which parameters. Data alone; `training.trainers` fits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

__all__ = ["Trainer", "XGBoost"]


@attrs.frozen
class Trainer:
    """What every trainer's declaration has. One more trainer derives its declaration from this.

    Attributes:
        parameters: the library's own parameters; a search overrides them by name.
    """

    parameters: Mapping[str, Any] = attrs.field(factory=dict, kw_only=True)


@attrs.frozen(init=False)
class XGBoost(Trainer):
    """Gradient-boosted trees by XGBoost.

    Attributes:
        num_boost_round: the most trees; fewer where the validation part stops improving.
        early_stopping_rounds: how many rounds without improvement end the fit.
        parameters: XGBoost's own, such as `objective`.
    """

    num_boost_round: int = 300
    early_stopping_rounds: int = 20

    def __init__(self, num_boost_round: int = 300, early_stopping_rounds: int = 20, **parameters: Any) -> None:
        # attrs writes this method; XGBoost's own parameters are keywords of it.
        self.__attrs_init__(num_boost_round, early_stopping_rounds, parameters=parameters)
