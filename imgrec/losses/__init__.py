"""Losses: ``forward(logits, targets) -> scalar``, on class indices and on class probabilities alike.

A loss of your own is a ``torch.nn.Module`` with that ``forward``: register it with ``@LOSSES.register("mine")``, or
name its class by dotted path. Any loss of ``torch.nn`` works the same way: ``torch.nn.MultiMarginLoss``.
"""

from imgrec.losses.base import LOSSES
from imgrec.losses.class_weights import ClassWeights, balanced_class_weights, resolve_class_weights
from imgrec.losses.cross_entropy import CrossEntropy, cross_entropy
from imgrec.losses.focal import Focal, focal_loss
from imgrec.losses.weighted import WeightedSum, build_loss, check_losses

__all__ = [
    "LOSSES",
    "ClassWeights",
    "CrossEntropy",
    "Focal",
    "WeightedSum",
    "balanced_class_weights",
    "build_loss",
    "check_losses",
    "cross_entropy",
    "focal_loss",
    "resolve_class_weights",
]
