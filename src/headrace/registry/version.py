"""The record of a registered version."""

from __future__ import annotations

from datetime import datetime

from msgspec import Struct

from headrace.kernel.html import html_pairs

__all__ = ["Version"]


class Version(Struct, frozen=True, kw_only=True):
    """A registered version of a model.

    Attributes:
        model, version: the model's name and the version's number.
        run_id: the MLflow run that it was made from.
        tags: MLflow's tags and Headrace's (`headrace.*`).
        metrics, params: those of the run.
        aliases: such as `champion` and `challenger`.
        created: when it was registered.
    """

    model: str
    version: int
    run_id: str
    tags: dict[str, str]
    metrics: dict[str, float]
    params: dict[str, str]
    aliases: tuple[str, ...]
    created: datetime

    def __repr__(self) -> str:
        aliases = "".join(f", {alias}" for alias in self.aliases)
        metrics = ", ".join(f"{name} {value:.4g}" for name, value in self.metrics.items())
        return f"<version {self.version} of {self.model}{aliases}: {metrics or 'no metrics'}>"

    def _repr_html_(self) -> str:
        """The version for a notebook."""
        pairs = [("aliases", ", ".join(self.aliases)), ("registered, UTC", f"{self.created:%F %T}")]
        pairs += [(f"metric {name}", f"{value:.6g}") for name, value in self.metrics.items()]
        pairs += [(f"parameter {name}", value) for name, value in self.params.items()]
        pairs += [(f"tag {name}", value) for name, value in self.tags.items()]
        return html_pairs(f"{self.model}@{self.version}", pairs)
