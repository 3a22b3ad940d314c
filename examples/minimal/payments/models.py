from headrace import ByTime, Model, XGBoost, at_least
from payments.features import refusal_features
from payments.tables import payment_labels

refusal = Model(
    "refusal",
    labels=payment_labels,
    target="is_refused",
    features=refusal_features,
    missing="model",
    trainer=XGBoost(),
    split=ByTime(),
    gate=[at_least("roc_auc", 0.7)],
)
