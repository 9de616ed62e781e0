"""What turns images into logits: backbones of timm and torchvision, heads, and the classifier made of both."""

from imgrec.models.backbone import Backbone, Features
from imgrec.models.blind_taps import clear_blind_gradients
from imgrec.models.catalogue import BACKBONES
from imgrec.models.cifar_resnet import CifarResNet
from imgrec.models.classifier import Classifier
from imgrec.models.compiling import check_compile, compile_network
from imgrec.models.heads import HEADS, CosineHead, LinearHead
from imgrec.models.memory_format import set_channels_last
from imgrec.models.normalize import Normalize, check_normalize, resolve_normalize
from imgrec.models.resnet9 import ResNet9
from imgrec.models.specs import ClassifierSpecs, build_classifier, check_classifier

__all__ = [
    "BACKBONES",
    "HEADS",
    "Backbone",
    "CifarResNet",
    "Classifier",
    "ClassifierSpecs",
    "CosineHead",
    "Features",
    "LinearHead",
    "Normalize",
    "ResNet9",
    "build_classifier",
    "check_classifier",
    "check_compile",
    "check_normalize",
    "clear_blind_gradients",
    "compile_network",
    "resolve_normalize",
    "set_channels_last",
]
