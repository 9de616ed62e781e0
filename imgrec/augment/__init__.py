"""What happens to images: tensors in, tensors out."""

from imgrec.augment.crop import CenterCrop, RandomCrop, center_crop, pad, pad_to, random_crop
from imgrec.augment.flip import HorizontalFlip, VerticalFlip, hflip, vflip
from imgrec.augment.pipeline import DEFAULT_TRANSFORMS, Pipeline, build_transforms, check_transforms
from imgrec.augment.resize import Resize, Squash, resize_short_side, resize_to
from imgrec.augment.resized_crop import RandomResizedCrop, random_box, random_resized_crop
from imgrec.augment.transform import AUGMENTATIONS, Transform

__all__ = [
    "AUGMENTATIONS",
    "DEFAULT_TRANSFORMS",
    "CenterCrop",
    "HorizontalFlip",
    "Pipeline",
    "RandomCrop",
    "RandomResizedCrop",
    "Resize",
    "Squash",
    "Transform",
    "VerticalFlip",
    "build_transforms",
    "center_crop",
    "check_transforms",
    "hflip",
    "pad",
    "pad_to",
    "random_box",
    "random_crop",
    "random_resized_crop",
    "resize_short_side",
    "resize_to",
    "vflip",
]
