"""The model: the sales of a department of a store in the week that begins."""

from headrace import ByTime, Model, XGBoost, at_least, not_worse_than_champion
from sales.features import sales_features
from sales.tables import weekly_sales

sales = Model(
    "sales",
    labels=weekly_sales,
    target="sales",
    features=sales_features,
    task="regression",
    missing="model",
    trainer=XGBoost(num_boost_round=300, max_depth=6, learning_rate=0.1),
    split=ByTime(validation=0.1, test=0.1),
    refresh="7d",
    gate=[at_least("r2", 0.8), not_worse_than_champion("mae")],
)
