"""The record of a deployed model, for tests that need any."""

from __future__ import annotations

from headrace.serving.mlflow_models.model_set import DeployedModel
from headrace.serving.mlflow_models.needs import Needs
from headrace.serving.mlflow_models.options import ServingOptions
from headrace.serving.mlflow_models.signature import Column, Signature

__all__ = ["MODEL"]

MODEL = DeployedModel(
    model="iris",
    version=1,
    source="models:/m-1",
    artifact="a",
    needs=Needs("3.9.18", ["mlflow==3.1.4"]),
    signature=Signature([Column("x", "double")]),
    options=ServingOptions("iris", env_vars={"A": "1"}),
    timeout=60.0,
)
