"""Augmentation of tensors: of single images, of batches, and mixing."""

from imgrec.augment.affine import Affine, affine
from imgrec.augment.base import AUGMENTATIONS, Augmentation, BatchTransform, Mix, Transform, to_float
from imgrec.augment.blur import GaussianBlur, gaussian_blur
from imgrec.augment.color import (
    Brightness,
    ColorJitter,
    Contrast,
    Grayscale,
    Hue,
    Saturation,
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    grayscale,
)
from imgrec.augment.crop import CenterCrop, PaddingMode, RandomCrop, center_crop, pad, pad_to, random_crop
from imgrec.augment.erasing import Cutout, RandomErasing, box_mask, erase
from imgrec.augment.flip import HorizontalFlip, VerticalFlip, hflip, vflip
from imgrec.augment.mixup import CutMix, Mixup, MixupOrCutMix, cutmix, cutmix_box, mixup, to_probabilities
from imgrec.augment.noise import GaussianNoise, Lighting, add_lighting, add_noise
from imgrec.augment.pipeline import DEFAULT_TRANSFORMS, Pipeline, build_transforms, check_transforms
from imgrec.augment.presets import PRESETS
from imgrec.augment.random import BatchRandom
from imgrec.augment.resize import Resize, Squash, resize_short_side, resize_to
from imgrec.augment.resized_crop import RandomResizedCrop, random_box, random_resized_crop
from imgrec.augment.test_time import VIEWS, TestTimeAugmentation, TestTimeView
from imgrec.augment.torchvision import (
    AugMix,
    AutoAugment,
    Elastic,
    Perspective,
    RandAugment,
    TorchvisionTransform,
    TrivialAugment,
)
from imgrec.augment.training_pipeline import TrainingPipeline, build_training_pipeline, check_training_transforms

__all__ = [
    "AUGMENTATIONS",
    "DEFAULT_TRANSFORMS",
    "PRESETS",
    "VIEWS",
    "Affine",
    "AugMix",
    "Augmentation",
    "AutoAugment",
    "BatchRandom",
    "BatchTransform",
    "Brightness",
    "CenterCrop",
    "ColorJitter",
    "Contrast",
    "CutMix",
    "Cutout",
    "Elastic",
    "GaussianBlur",
    "GaussianNoise",
    "Grayscale",
    "HorizontalFlip",
    "Hue",
    "Lighting",
    "Mix",
    "Mixup",
    "MixupOrCutMix",
    "PaddingMode",
    "Perspective",
    "Pipeline",
    "RandAugment",
    "RandomCrop",
    "RandomErasing",
    "RandomResizedCrop",
    "Resize",
    "Saturation",
    "Squash",
    "TestTimeAugmentation",
    "TestTimeView",
    "TorchvisionTransform",
    "TrainingPipeline",
    "Transform",
    "TrivialAugment",
    "VerticalFlip",
    "add_lighting",
    "add_noise",
    "adjust_brightness",
    "adjust_contrast",
    "adjust_hue",
    "adjust_saturation",
    "affine",
    "box_mask",
    "build_training_pipeline",
    "build_transforms",
    "center_crop",
    "check_training_transforms",
    "check_transforms",
    "cutmix",
    "cutmix_box",
    "erase",
    "gaussian_blur",
    "grayscale",
    "hflip",
    "mixup",
    "pad",
    "pad_to",
    "random_box",
    "random_crop",
    "random_resized_crop",
    "resize_short_side",
    "resize_to",
    "to_float",
    "to_probabilities",
    "vflip",
]
