"""The model: the species of a flower, by the estimator that params.yaml names and the best of its grid."""

from sklearn.calibration import CalibratedClassifierCV
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC

from headrace import Model, Sklearn, Stratified, Tune, at_least, choice, params
from iris.features import species_features
from iris.tables import flowers

ESTIMATORS = {
    "logistic_regression": LogisticRegression(max_iter=1000),
    "svm": CalibratedClassifierCV(SVC(), ensemble=False),  # an SVM alone has no probabilities
    "k_nearest_neighbours": KNeighborsClassifier(),
}
ESTIMATOR = params("estimator", choices=ESTIMATORS)
GRID = params("grid")[ESTIMATOR]

species = Model(
    "species",
    labels=flowers,
    target="species",
    features=species_features,
    task="multiclass",
    trainer=Sklearn(ESTIMATORS[ESTIMATOR]),
    tune=Tune("log_loss", n_trials=None, space={name: choice(*values) for name, values in GRID.items()}),
    split=Stratified(**params("split")),
    gate=[at_least("macro_f1", params("gate.macro_f1"))],
)
