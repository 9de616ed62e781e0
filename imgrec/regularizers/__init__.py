"""Regularizers: ``forward(output, model) -> scalar``, added to the loss with a weight and an optional ramp.

What reads features, a second view, the inputs' gradient or the weights is a regularizer, whatever its paper calls it.
"""

from imgrec.regularizers.adversarial import FGSM, PGD, climb
from imgrec.regularizers.augmix import augmix
from imgrec.regularizers.base import REGULARIZERS
from imgrec.regularizers.center import Center, center_loss
from imgrec.regularizers.confidence import ConfidencePenalty, EntropyPenalty, prediction_entropy
from imgrec.regularizers.consistency import JensenShannon, RDrop, jensen_shannon, symmetric_kl
from imgrec.regularizers.contrastive import SupervisedContrastive, supervised_contrastive
from imgrec.regularizers.decorrelation import Decorrelation, KoLeo, decorrelation_penalty, koleo_penalty
from imgrec.regularizers.input_gradient import InputGradient, Jacobian, input_gradient_penalty, jacobian_penalty
from imgrec.regularizers.norms import L1, L2, ElasticNet, elastic_net_penalty, l1_penalty, l2_penalty
from imgrec.regularizers.orthogonality import (
    Orthogonality,
    SpectralNorm,
    gram_difference,
    largest_singular_values,
    weight_matrices,
)
from imgrec.regularizers.pairwise import agreement
from imgrec.regularizers.sparsity import BatchNormScale, GroupLasso, GrowingGroupNorm
from imgrec.regularizers.triplet import Triplet, triplet_loss
from imgrec.regularizers.virtual_adversarial import VirtualAdversarial
from imgrec.regularizers.weight_penalty import WeightPenalty, norm_and_bias_names, weight_parameters
from imgrec.regularizers.weighted_sum import RegularizerSum, build_regularizers, check_regularizers, ramp_factor

__all__ = [
    "FGSM",
    "L1",
    "L2",
    "PGD",
    "REGULARIZERS",
    "BatchNormScale",
    "Center",
    "ConfidencePenalty",
    "Decorrelation",
    "ElasticNet",
    "EntropyPenalty",
    "GroupLasso",
    "GrowingGroupNorm",
    "InputGradient",
    "Jacobian",
    "JensenShannon",
    "KoLeo",
    "Orthogonality",
    "RDrop",
    "RegularizerSum",
    "SpectralNorm",
    "SupervisedContrastive",
    "Triplet",
    "VirtualAdversarial",
    "WeightPenalty",
    "agreement",
    "augmix",
    "build_regularizers",
    "center_loss",
    "check_regularizers",
    "climb",
    "decorrelation_penalty",
    "elastic_net_penalty",
    "gram_difference",
    "input_gradient_penalty",
    "jacobian_penalty",
    "jensen_shannon",
    "koleo_penalty",
    "l1_penalty",
    "l2_penalty",
    "largest_singular_values",
    "norm_and_bias_names",
    "prediction_entropy",
    "ramp_factor",
    "supervised_contrastive",
    "symmetric_kl",
    "triplet_loss",
    "weight_matrices",
    "weight_parameters",
]
