"""Regularizers: ``forward(output, model) -> scalar``, added to the loss with a weight and an optional ramp.

What reads features, a second view, the inputs' gradient or the weights is a regularizer, whatever its paper calls it.
"""

from imgrec.regularizers.base import REGULARIZERS
from imgrec.regularizers.norms import L1, L2, ElasticNet, elastic_net_penalty, l1_penalty, l2_penalty
from imgrec.regularizers.sparsity import BatchNormScale, GroupLasso, GrowingGroupNorm
from imgrec.regularizers.sum import RegularizerSum, build_regularizers, check_regularizers, ramp_factor
from imgrec.regularizers.weights import norm_and_bias_names, weight_parameters

__all__ = [
    "L1",
    "L2",
    "REGULARIZERS",
    "BatchNormScale",
    "ElasticNet",
    "GroupLasso",
    "GrowingGroupNorm",
    "RegularizerSum",
    "build_regularizers",
    "check_regularizers",
    "elastic_net_penalty",
    "l1_penalty",
    "l2_penalty",
    "norm_and_bias_names",
    "ramp_factor",
    "weight_parameters",
]
