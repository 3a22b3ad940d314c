"""The names of what a bundle holds."""

from __future__ import annotations

__all__ = ["MODEL", "PLAN", "PLOTS", "REPORT"]

PLAN = "plan.json"
"""The features: what is looked up and computed, and how."""
MODEL = "model"
"""The folder of the fitted model."""
REPORT = "training.json"
"""How the version was trained, and its metrics (`report.TrainingReport`)."""
PLOTS = "evaluation.svg"
"""The plots of the test part."""
