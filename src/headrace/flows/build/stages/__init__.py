"""The kinds of stages, one per file. To add a kind, add a file and its entry in `KINDS`."""

from __future__ import annotations

from headrace.flows.build.stage import Stage
from headrace.flows.build.stages.code import CodeStage
from headrace.flows.build.stages.features import FeaturesStage
from headrace.flows.build.stages.inputs import InputsStage
from headrace.flows.build.stages.online import OnlineStage
from headrace.flows.build.stages.publish import PublishStage
from headrace.flows.build.stages.release import ReleaseStage
from headrace.flows.build.stages.source import SourceStage
from headrace.flows.build.stages.table import TableStage
from headrace.flows.build.stages.train import TrainStage
from headrace.flows.build.stages.training_set import TrainingSetStage

__all__ = ["KINDS"]

KINDS: tuple[type[Stage], ...] = (
    CodeStage,
    SourceStage,
    TableStage,
    PublishStage,
    FeaturesStage,
    OnlineStage,
    InputsStage,
    TrainingSetStage,
    TrainStage,
    ReleaseStage,
)
"""In the order of the build: each kind depends only on earlier ones."""
