"""The names of the files in a bundle."""

from __future__ import annotations

__all__ = ["MODEL", "PLAN", "PLOTS", "REPORT"]

PLAN = "plan.json"
"""The feature plan: which features are looked up or computed, and how."""
MODEL = "model"
"""The folder of the fitted model."""
REPORT = "training.json"
"""How the version was trained, and its metrics (`report.TrainingReport`)."""
PLOTS = "evaluation.svg"
"""The plots of the evaluation on the test part."""
