"""The shop's model: at a view or a cart, is this product bought before the session ends?"""

from headrace import (
    Model,
    Tune,
    XGBoost,
    at_least,
    integers,
    loguniform,
    not_worse_than_champion,
    uniform,
)
from shop.features import purchase_features
from shop.split import split
from shop.tables import view_outcomes

purchase = Model(
    "purchase",
    labels=view_outcomes,
    target="is_purchased",
    features=purchase_features,
    missing="model",
    trainer=XGBoost(objective="binary:logistic"),
    tune=Tune(
        metric="pr_auc",
        n_trials=12,
        space={
            "max_depth": integers(3, 6),
            "learning_rate": loguniform(0.05, 0.3),
            "min_child_weight": loguniform(1, 50),
            "subsample": uniform(0.6, 1.0),
        },
    ),
    split=split,
    refresh="1d",
    gate=[at_least("roc_auc", 0.7), not_worse_than_champion("pr_auc")],
)
