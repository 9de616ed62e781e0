"""Where images come from: sources, splits, loading, and the data module that holds them together."""

from imgrec.data.audit import find_bad_images, refuse_bad_images
from imgrec.data.balance import SAMPLERS, Sampler, strata
from imgrec.data.classes import check_classes, map_classes
from imgrec.data.csv_table import CsvTable
from imgrec.data.decode import IMAGE_SUFFIXES, BadImage, decode_image, from_pil, to_channels
from imgrec.data.digits import Digits
from imgrec.data.folder import Folder
from imgrec.data.loading import BatchLoader, Collate, EvaluationSet, TrainingSet
from imgrec.data.module import ImageDataModule
from imgrec.data.parquet import Parquet
from imgrec.data.sampling import EvaluationOrder, TrainingOrder
from imgrec.data.source import SOURCES, Source
from imgrec.data.splits import Splits, split_source
from imgrec.data.stratify import stratify
from imgrec.data.torchvision_set import TorchvisionSet
from imgrec.data.view import View

__all__ = [
    "IMAGE_SUFFIXES",
    "SAMPLERS",
    "SOURCES",
    "BadImage",
    "BatchLoader",
    "Collate",
    "CsvTable",
    "Digits",
    "EvaluationOrder",
    "EvaluationSet",
    "Folder",
    "ImageDataModule",
    "Parquet",
    "Sampler",
    "Source",
    "Splits",
    "TorchvisionSet",
    "TrainingOrder",
    "TrainingSet",
    "View",
    "check_classes",
    "decode_image",
    "find_bad_images",
    "from_pil",
    "map_classes",
    "refuse_bad_images",
    "split_source",
    "strata",
    "stratify",
    "to_channels",
]
