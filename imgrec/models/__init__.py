"""Models from images to logits: backbones of timm and torchvision, necks, poolings, heads, edits and initializers."""

from imgrec.models.backbones.base import Backbone, Features
from imgrec.models.backbones.catalogue import BACKBONES
from imgrec.models.backbones.cifar_resnet import CifarResNet
from imgrec.models.backbones.resnet9 import ResNet9
from imgrec.models.builder import ClassifierSpecs, build_classifier, check_classifier
from imgrec.models.classifier import Classifier
from imgrec.models.edits.activation import SwapActivation
from imgrec.models.edits.attention import BlockAttention, EfficientChannelAttention, SqueezeExcitation
from imgrec.models.edits.base import EDITS, Edit
from imgrec.models.edits.blur_pool import BlurPool
from imgrec.models.edits.drop_block import DropBlocks
from imgrec.models.edits.dropout import Depth, Dropout, SpatialDropout
from imgrec.models.edits.lora import LoRA
from imgrec.models.edits.norm import SwapNorm, WeightStandardization
from imgrec.models.edits.separable import Separable
from imgrec.models.edits.weight_norm import WeightNorm
from imgrec.models.features.feature_maps import MapBackbone
from imgrec.models.heads.corn import CornHead, median_class, ordinal_log_probabilities
from imgrec.models.heads.linear import HEADS, CosineHead, LinearHead
from imgrec.models.heads.mlp import MLPHead, MultiSampleDropoutHead
from imgrec.models.init.base import INITIALIZERS, Initializer
from imgrec.models.init.fan import HeNormal, HeUniform, XavierNormal, XavierUniform
from imgrec.models.init.fixed import Normal, Orthogonal, TruncatedNormal, Uniform
from imgrec.models.init.residual import ZeroResidual
from imgrec.models.necks.base import NECKS, Neck
from imgrec.models.necks.bifpn import BiFPN
from imgrec.models.necks.concat import ConcatNeck
from imgrec.models.necks.fpn import FPN, PAN
from imgrec.models.necks.simple_pyramid import SimplePyramid
from imgrec.models.normalization import Normalize, check_normalize, resolve_normalize
from imgrec.models.pooling import (
    POOLINGS,
    AttentionPooling,
    AverageMaxPooling,
    AveragePooling,
    GeMPooling,
    MaxPooling,
    Pooling,
)
from imgrec.models.utils.compile import check_compile, compile_network, set_channels_last
from imgrec.models.utils.padding_gradients import clear_blind_gradients

__all__ = [
    "BACKBONES",
    "EDITS",
    "FPN",
    "HEADS",
    "INITIALIZERS",
    "NECKS",
    "PAN",
    "POOLINGS",
    "AttentionPooling",
    "AverageMaxPooling",
    "AveragePooling",
    "Backbone",
    "BiFPN",
    "BlockAttention",
    "BlurPool",
    "CifarResNet",
    "Classifier",
    "ClassifierSpecs",
    "ConcatNeck",
    "CornHead",
    "CosineHead",
    "Depth",
    "DropBlocks",
    "Dropout",
    "Edit",
    "EfficientChannelAttention",
    "Features",
    "GeMPooling",
    "HeNormal",
    "HeUniform",
    "Initializer",
    "LinearHead",
    "LoRA",
    "MLPHead",
    "MapBackbone",
    "MaxPooling",
    "MultiSampleDropoutHead",
    "Neck",
    "Normal",
    "Normalize",
    "Orthogonal",
    "Pooling",
    "ResNet9",
    "Separable",
    "SimplePyramid",
    "SpatialDropout",
    "SqueezeExcitation",
    "SwapActivation",
    "SwapNorm",
    "TruncatedNormal",
    "Uniform",
    "WeightNorm",
    "WeightStandardization",
    "XavierNormal",
    "XavierUniform",
    "ZeroResidual",
    "build_classifier",
    "check_classifier",
    "check_compile",
    "check_normalize",
    "clear_blind_gradients",
    "compile_network",
    "median_class",
    "ordinal_log_probabilities",
    "resolve_normalize",
    "set_channels_last",
]
