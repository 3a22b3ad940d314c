"""Settings of the model registry."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

from headrace.kernel.addresses import sqlalchemy_url

__all__ = ["RegistrySettings"]


class RegistrySettings(Struct, frozen=True):
    """Where model versions are stored, and which of them are trusted.

    Attributes:
        state: the state folder.
        mlflow: `sqlite` (a file in the state folder) or the address of an MLflow server.
        trust: versions (`MODEL@VERSION`) whose bundles are accepted although they are unsigned, or signed with
            another key.
    """

    state: Path
    mlflow: str = "sqlite"
    trust: tuple[str, ...] = ()

    @property
    def mlflow_url(self) -> str:
        """MLflow's tracking and registry address: `sqlite:////...` (SQLAlchemy's form) or a server's."""
        return sqlalchemy_url(self.state / "mlflow" / "mlflow.db") if self.mlflow == "sqlite" else self.mlflow
