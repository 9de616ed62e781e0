"""The LightningModules."""

from imgrec.tasks.base import BaseTask
from imgrec.tasks.classification import ClassificationTask
from imgrec.tasks.distillation import DistillationTask
from imgrec.tasks.epoch import EpochPredictions

__all__ = ["BaseTask", "ClassificationTask", "DistillationTask", "EpochPredictions"]
