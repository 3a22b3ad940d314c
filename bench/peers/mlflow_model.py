"""Writes the benchmark's model as an MLflow model: python mlflow_model.py BOOSTER FOLDER."""

from __future__ import annotations

import sys

import mlflow.xgboost
import xgboost
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema

NAMES = [f"f{n}" for n in range(6)]


def main() -> None:
    booster, folder = sys.argv[1:]
    model = xgboost.Booster(model_file=booster)
    model.feature_names = NAMES
    signature = ModelSignature(Schema([ColSpec("double", name) for name in NAMES]))
    mlflow.xgboost.save_model(model, folder, signature=signature, model_format="ubj")


if __name__ == "__main__":
    main()
