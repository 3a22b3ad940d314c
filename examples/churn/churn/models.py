"""The model: will this customer leave?"""

from sklearn.ensemble import RandomForestClassifier

from churn.events import ChurnOutcome
from churn.features import churn_features
from churn.tables import churn_labels
from headrace import Model, Outcomes, Sklearn, Stratified, at_least

# Numbers are imputed and scaled, and text is one-hot encoded, all learnt from the train part alone.
churn = Model(
    "churn",
    labels=churn_labels,
    target="Churned",
    features=churn_features,
    trainer=Sklearn(RandomForestClassifier(n_estimators=200, min_samples_leaf=10)),
    split=Stratified(validation=0.15, test=0.25, seed=7),
    refresh="0s",  # a new file means a new version
    gate=[at_least("roc_auc", 0.7)],
    outcomes=Outcomes(ChurnOutcome, value="is_churned", within="90d"),
)
