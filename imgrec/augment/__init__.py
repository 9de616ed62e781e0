"""What happens to images: tensors in, tensors out; one by one, as a batch, and mixed."""

from imgrec.augment.crop import CenterCrop, PaddingMode, center_crop, pad, pad_to
from imgrec.augment.draws import Draws
from imgrec.augment.flip import HorizontalFlip, VerticalFlip, hflip, vflip
from imgrec.augment.pipeline import DEFAULT_TRANSFORMS, Pipeline, build_transforms, check_transforms
from imgrec.augment.presets import PRESETS
from imgrec.augment.random_crop import RandomCrop, random_crop
from imgrec.augment.resize import Resize, Squash, resize_short_side, resize_to
from imgrec.augment.resized_crop import RandomResizedCrop, random_box, random_resized_crop
from imgrec.augment.torchvision_v2 import (
    AugMix,
    AutoAugment,
    Elastic,
    Perspective,
    RandAugment,
    TorchvisionTransform,
    TrivialAugment,
)
from imgrec.augment.training import TrainingPipeline, build_training_pipeline, check_training_transforms
from imgrec.augment.transform import AUGMENTATIONS, Augmentation, BatchTransform, Mix, Transform, to_float

__all__ = [
    "AUGMENTATIONS",
    "DEFAULT_TRANSFORMS",
    "PRESETS",
    "AugMix",
    "Augmentation",
    "AutoAugment",
    "BatchTransform",
    "CenterCrop",
    "Draws",
    "Elastic",
    "HorizontalFlip",
    "Mix",
    "PaddingMode",
    "Perspective",
    "Pipeline",
    "RandAugment",
    "RandomCrop",
    "RandomResizedCrop",
    "Resize",
    "Squash",
    "TorchvisionTransform",
    "TrainingPipeline",
    "Transform",
    "TrivialAugment",
    "VerticalFlip",
    "build_training_pipeline",
    "build_transforms",
    "center_crop",
    "check_training_transforms",
    "check_transforms",
    "hflip",
    "pad",
    "pad_to",
    "random_box",
    "random_crop",
    "random_resized_crop",
    "resize_short_side",
    "resize_to",
    "to_float",
    "vflip",
]
