"""The LightningModules."""

from imgrec.tasks.base import BaseTask
from imgrec.tasks.classification import ClassificationTask
from imgrec.tasks.distillation import DistillationTask
from imgrec.tasks.epoch_predictions import PredictionSet

__all__ = ["BaseTask", "ClassificationTask", "DistillationTask", "PredictionSet"]
