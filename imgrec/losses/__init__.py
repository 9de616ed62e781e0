"""Losses: ``forward(logits, targets) -> scalar``, on class indices and on class probabilities.

A custom loss is a ``torch.nn.Module`` with that ``forward``. Register it with ``@LOSSES.register("mine")``, or refer to
its class by dotted path. Every loss of ``torch.nn`` works in the same way, for example ``torch.nn.MultiMarginLoss``.
Each loss has a pure function: ``Focal`` is the module of :func:`focal_loss`.
"""

from imgrec.losses.asymmetric import Asymmetric, asymmetric_loss
from imgrec.losses.base import LOSSES
from imgrec.losses.binary_cross_entropy import BinaryCrossEntropy, binary_cross_entropy
from imgrec.losses.bootstrapping import Bootstrapping, bootstrapped_cross_entropy
from imgrec.losses.brier import Brier, Huber, brier_score, huber_score
from imgrec.losses.class_weights import (
    ClassWeights,
    balanced_class_weights,
    effective_class_weights,
    resolve_class_weights,
)
from imgrec.losses.corn import Corn, corn_loss
from imgrec.losses.cross_entropy import CrossEntropy, cross_entropy
from imgrec.losses.distillation.base import (
    DISTILLATIONS,
    Distillation,
    DistillationSum,
    Signals,
    build_distillations,
    check_distillations,
)
from imgrec.losses.distillation.features import AttentionTransfer, Hints, attention_loss, attention_map, hint_loss
from imgrec.losses.distillation.logits import (
    Correlation,
    DecoupledLogits,
    HardLabels,
    SoftLogits,
    correlation_loss,
    decoupled_divergence,
    hard_label_loss,
    softened_divergence,
)
from imgrec.losses.focal import Focal, focal_loss
from imgrec.losses.generalized_cross_entropy import GeneralizedCrossEntropy, generalized_cross_entropy
from imgrec.losses.hinge import Hinge, crammer_singer_hinge, hinge_loss, one_vs_rest_hinge
from imgrec.losses.logit_adjusted import LogitAdjusted, log_prior, logit_adjusted_loss
from imgrec.losses.margin import (
    ArcFace,
    CosFace,
    MarginLoss,
    arcface_logits,
    arcface_loss,
    cosface_logits,
    cosface_loss,
)
from imgrec.losses.poly import Poly1, poly_1_loss
from imgrec.losses.symmetric_cross_entropy import SymmetricCrossEntropy, reverse_cross_entropy, symmetric_cross_entropy
from imgrec.losses.weighted_sum import WeightedSum, build_loss, check_losses

__all__ = [
    "DISTILLATIONS",
    "LOSSES",
    "ArcFace",
    "Asymmetric",
    "AttentionTransfer",
    "BinaryCrossEntropy",
    "Bootstrapping",
    "Brier",
    "ClassWeights",
    "Corn",
    "Correlation",
    "CosFace",
    "CrossEntropy",
    "DecoupledLogits",
    "Distillation",
    "DistillationSum",
    "Focal",
    "GeneralizedCrossEntropy",
    "HardLabels",
    "Hinge",
    "Hints",
    "Huber",
    "LogitAdjusted",
    "MarginLoss",
    "Poly1",
    "Signals",
    "SoftLogits",
    "SymmetricCrossEntropy",
    "WeightedSum",
    "arcface_logits",
    "arcface_loss",
    "asymmetric_loss",
    "attention_loss",
    "attention_map",
    "balanced_class_weights",
    "binary_cross_entropy",
    "bootstrapped_cross_entropy",
    "brier_score",
    "build_distillations",
    "build_loss",
    "check_distillations",
    "check_losses",
    "corn_loss",
    "correlation_loss",
    "cosface_logits",
    "cosface_loss",
    "crammer_singer_hinge",
    "cross_entropy",
    "decoupled_divergence",
    "effective_class_weights",
    "focal_loss",
    "generalized_cross_entropy",
    "hard_label_loss",
    "hinge_loss",
    "hint_loss",
    "huber_score",
    "log_prior",
    "logit_adjusted_loss",
    "one_vs_rest_hinge",
    "poly_1_loss",
    "resolve_class_weights",
    "reverse_cross_entropy",
    "softened_divergence",
    "symmetric_cross_entropy",
]
