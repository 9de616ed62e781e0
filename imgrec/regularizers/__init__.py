"""Regularizers: ``forward(output, model) -> scalar``, added to the loss with a weight and an optional ramp.

A term that reads features, a second view, input gradients or weights is a regularizer, even if its paper calls it a
loss. Each one has a pure function: ``L1`` is the module of :func:`l1_penalty`.
"""

from imgrec.regularizers.adversarial import FGSM, PGD, fgsm_loss, pgd_loss, projected_ascent
from imgrec.regularizers.augmix import augmix
from imgrec.regularizers.base import REGULARIZERS
from imgrec.regularizers.center import Center, center_loss
from imgrec.regularizers.confidence import (
    ConfidencePenalty,
    EntropyPenalty,
    confidence_penalty,
    entropy_penalty,
    prediction_entropy,
)
from imgrec.regularizers.consistency import JensenShannon, RDrop, jensen_shannon, r_drop_penalty, symmetric_kl
from imgrec.regularizers.contrastive import SupervisedContrastive, supervised_contrastive
from imgrec.regularizers.decorrelation import Decorrelation, KoLeo, decorrelation_penalty, koleo_penalty
from imgrec.regularizers.input_gradient import InputGradient, Jacobian, input_gradient_penalty, jacobian_penalty
from imgrec.regularizers.norms import L1, L2, ElasticNet, elastic_net_penalty, l1_penalty, l2_penalty
from imgrec.regularizers.orthogonality import (
    Orthogonality,
    SpectralNorm,
    gram_difference,
    largest_singular_values,
    orthogonality_penalty,
    spectral_norm_penalty,
    weight_matrices,
)
from imgrec.regularizers.pairwise import agreement
from imgrec.regularizers.sparsity import (
    BatchNormScale,
    GroupLasso,
    GrowingGroupNorm,
    bn_scale_penalty,
    group_lasso_penalty,
    growing_group_norm_penalty,
)
from imgrec.regularizers.triplet import Triplet, triplet_loss
from imgrec.regularizers.virtual_adversarial import VirtualAdversarial, virtual_adversarial_penalty
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
    "bn_scale_penalty",
    "build_regularizers",
    "center_loss",
    "check_regularizers",
    "confidence_penalty",
    "decorrelation_penalty",
    "elastic_net_penalty",
    "entropy_penalty",
    "fgsm_loss",
    "gram_difference",
    "group_lasso_penalty",
    "growing_group_norm_penalty",
    "input_gradient_penalty",
    "jacobian_penalty",
    "jensen_shannon",
    "koleo_penalty",
    "l1_penalty",
    "l2_penalty",
    "largest_singular_values",
    "norm_and_bias_names",
    "orthogonality_penalty",
    "pgd_loss",
    "prediction_entropy",
    "projected_ascent",
    "r_drop_penalty",
    "ramp_factor",
    "spectral_norm_penalty",
    "supervised_contrastive",
    "symmetric_kl",
    "triplet_loss",
    "virtual_adversarial_penalty",
    "weight_matrices",
    "weight_parameters",
]
