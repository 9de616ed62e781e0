"""What turns images into logits: backbones of timm and torchvision, necks, poolings, heads, and the classifier."""

from imgrec.models.backbone import Backbone, Features
from imgrec.models.blind_taps import clear_blind_gradients
from imgrec.models.catalogue import BACKBONES
from imgrec.models.cifar_resnet import CifarResNet
from imgrec.models.classifier import Classifier
from imgrec.models.compiling import check_compile, compile_network
from imgrec.models.edits import EDITS, Edit
from imgrec.models.edits_activation import SwapActivation
from imgrec.models.edits_attention import BlockAttention, EfficientChannelAttention, SqueezeExcitation
from imgrec.models.edits_blur import BlurPool
from imgrec.models.edits_dropout import Depth, DropBlocks, Dropout, SpatialDropout
from imgrec.models.edits_lora import LoRA
from imgrec.models.edits_norm import SwapNorm, WeightStandardization
from imgrec.models.edits_separable import Separable
from imgrec.models.edits_weight_norm import WeightNorm
from imgrec.models.heads import HEADS, CosineHead, LinearHead
from imgrec.models.heads_corn import CornHead, median_class, ordinal_log_probabilities
from imgrec.models.heads_mlp import MLPHead, MultiSampleDropoutHead
from imgrec.models.initialize import INITIALIZERS, Initializer
from imgrec.models.initialize_fans import HeNormal, HeUniform, XavierNormal, XavierUniform
from imgrec.models.initialize_residual import ZeroResidual
from imgrec.models.initialize_weights import Normal, Orthogonal, TruncatedNormal, Uniform
from imgrec.models.maps import MapBackbone
from imgrec.models.memory_format import set_channels_last
from imgrec.models.necks import NECKS, Neck
from imgrec.models.necks_bifpn import BiFPN
from imgrec.models.necks_concat import Concat
from imgrec.models.necks_fpn import FPN, PAN
from imgrec.models.necks_simple_pyramid import SimplePyramid
from imgrec.models.normalize import Normalize, check_normalize, resolve_normalize
from imgrec.models.pooling import (
    POOLINGS,
    AttentionPooling,
    AverageMaxPooling,
    AveragePooling,
    GeMPooling,
    MaxPooling,
    Pooling,
)
from imgrec.models.resnet9 import ResNet9
from imgrec.models.specs import ClassifierSpecs, build_classifier, check_classifier

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
    "Concat",
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
