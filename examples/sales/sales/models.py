"""The model: the sales of a department of a store in the week that begins."""

from headrace import Model, SeasonalNaive, WalkForward, XGBoost, better_than_baseline, not_worse_than_champion
from sales.features import sales_features
from sales.tables import weekly_sales

sales = Model(
    "sales",
    labels=weekly_sales,
    target="sales",
    features=sales_features,
    missing="model",
    trainer=XGBoost(
        num_boost_round=300,
        max_depth=6,
        learning_rate=0.1,
        min_child_weight=20,
        subsample=0.8,
        colsample_bytree=0.7,
    ),
    split=WalkForward(folds=3, horizon="91d"),  # three quarters, each predicted from all the weeks before it
    baseline=SeasonalNaive("364d"),  # the same week a year ago
    refresh="7d",
    gate=[better_than_baseline("wape"), not_worse_than_champion("wape")],
)
