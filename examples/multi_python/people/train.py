"""Trains an iris classifier and logs it to MLflow, as somebody else would who knows nothing of Headrace.

    python train.py MLFLOW NAME TAGS

It runs on any Python with CatBoost and MLflow. TAGS is a JSON object: the tags of the registered version.
"""

import json
import sys
from importlib.metadata import version
from pathlib import Path

import mlflow
import pandas as pd
from catboost import CatBoostClassifier
from mlflow.models import infer_signature

PINNED = ("mlflow-skinny", "catboost", "numpy", "pandas")


def main():
    address, name, tags = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    rows = pd.read_csv(Path(__file__).with_name("iris.csv"))
    features, species = rows.drop(columns="species"), rows["species"]
    test = rows.index % 5 == 0  # the rows are sorted by species: every fifth row has all of them
    model = CatBoostClassifier(
        iterations=60, depth=4, random_seed=7, thread_count=1, verbose=False, allow_writing_files=False
    )
    model.fit(features[~test], species[~test])
    accuracy = model.score(features[test], species[test])

    mlflow.set_tracking_uri(address)
    mlflow.set_experiment("iris")
    with mlflow.start_run(run_name=name):
        mlflow.log_metric("accuracy", accuracy)
        mlflow.catboost.log_model(
            model,
            "model",
            signature=infer_signature(features, model.predict(features)),
            # MLflow would find them by importing the model once more in another process.
            pip_requirements=[f"{package}=={version(package)}" for package in PINNED],
            registered_model_name=name,
        )
    client = mlflow.MlflowClient(address)
    newest = max(int(found.version) for found in client.search_model_versions(f"name = '{name}'"))
    for tag, value in tags.items():
        client.set_model_version_tag(name, str(newest), tag, value)
    answers = model.predict(features[test]).ravel().tolist()
    print(json.dumps({"version": newest, "accuracy": accuracy, "answers": answers}))


if __name__ == "__main__":
    main()
