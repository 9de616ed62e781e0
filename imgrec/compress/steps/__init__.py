"""Steps of a compression plan."""

from imgrec.compress.steps.base import STEPS, CompressionStep
from imgrec.compress.steps.pruning import DropResidualBlocks, Mask, Prune
from imgrec.compress.steps.quantize import Quantize
from imgrec.compress.steps.training import Finetune, Qat, Training

__all__ = ["STEPS", "CompressionStep", "DropResidualBlocks", "Finetune", "Mask", "Prune", "Qat", "Quantize", "Training"]
