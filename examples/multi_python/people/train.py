"""Trains an iris classifier and registers it in MLflow, as people do who know nothing of Headrace.

    python train.py MODEL TAGS [--trees N] [--require REQUIREMENT]

It runs on any Python with CatBoost and MLflow; MLFLOW_TRACKING_URI says where MLflow is. TAGS is a JSON object:
the tags of the registered version.
"""

import argparse
import json
from importlib.metadata import version
from pathlib import Path

import mlflow
import pandas as pd
from catboost import CatBoostClassifier
from mlflow.models import infer_signature

PACKAGES = ("catboost", "mlflow-skinny", "numpy", "pandas")


def main():
    arguments = parse_arguments()
    rows = pd.read_csv(Path(__file__).with_name("iris.csv"))
    features, species = rows.drop(columns="species"), rows["species"]
    is_test = rows.index % 5 == 0  # the rows are sorted by species: every fifth row has all of them
    model = CatBoostClassifier(
        iterations=arguments.trees,
        depth=4,
        random_seed=7,
        thread_count=1,
        verbose=False,
        allow_writing_files=False,
    )
    model.fit(features[~is_test], species[~is_test])
    # Stated here, because MLflow would find them by importing the model once more, in another process.
    requirements = arguments.require or [f"{package}=={version(package)}" for package in PACKAGES]
    with mlflow.start_run(run_name=arguments.model):
        mlflow.log_metric("accuracy", model.score(features[is_test], species[is_test]))
        logged = mlflow.catboost.log_model(
            model,
            "model",
            signature=infer_signature(features, model.predict(features)),
            pip_requirements=requirements,
        )
        # Registered with its tags at once: whoever deploys meanwhile sees it whole.
        registered = mlflow.register_model(logged.model_uri, arguments.model, tags=json.loads(arguments.tags))
    answers = model.predict(features[is_test]).tolist()
    print(json.dumps({"version": int(registered.version), "answers": answers}))


def parse_arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("tags")
    parser.add_argument("--trees", type=int, default=60)
    parser.add_argument("--require", action="append")
    return parser.parse_args()


if __name__ == "__main__":
    main()
