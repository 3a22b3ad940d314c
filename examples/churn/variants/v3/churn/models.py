"""The model: will this customer leave?"""

from churn.events import ChurnOutcome
from churn.features import churn_features
from churn.tables import churn_labels
from sklearn.linear_model import LogisticRegression

from headrace import Model, Outcomes, Sklearn, Stratified, at_least

# Numbers are imputed and scaled, and text is one-hot encoded, all learnt from the train part alone.
churn = Model(
    "churn",
    labels=churn_labels,
    target="Churned",
    features=churn_features,
    trainer=Sklearn(LogisticRegression(max_iter=1_000)),
    split=Stratified(validation=0.15, test=0.25, seed=7),
    refresh="0s",  # a new file means a new version
    gate=[at_least("roc_auc", 0.7)],
    outcomes=Outcomes(ChurnOutcome, value="is_churned", within="90d"),
)
