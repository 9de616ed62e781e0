"""Where images come from: sources, splits, loading, and the data module that holds them together."""

from imgrec.data.audit import find_bad_images, refuse_bad_images
from imgrec.data.balance import SAMPLERS, Sampler, strata
from imgrec.data.cache import BrokenCacheError, CachedImages, DecodedImages
from imgrec.data.cache_choice import cached_images
from imgrec.data.cache_plan import CachePlan, plan_cache
from imgrec.data.cache_store import cache_root, stored_caches
from imgrec.data.classes import check_classes, map_classes
from imgrec.data.concat import Concat
from imgrec.data.csv_table import CsvTable
from imgrec.data.decode import IMAGE_SUFFIXES, BadImage, decode_image, from_pil, to_channels
from imgrec.data.digits import Digits
from imgrec.data.folder import Folder
from imgrec.data.hub import Hub
from imgrec.data.label_noise import LabelNoise
from imgrec.data.loading import BatchLoader, EvaluationSet, TrainingSet
from imgrec.data.long_tail import LongTail
from imgrec.data.module import ImageDataModule
from imgrec.data.parquet import Parquet
from imgrec.data.sampling import EvaluationOrder, TrainingOrder
from imgrec.data.source import SOURCES, Source
from imgrec.data.splits import Splits, split_source
from imgrec.data.stratify import stratify
from imgrec.data.subset import Subset
from imgrec.data.tar_shards import TarShards
from imgrec.data.torchvision_set import TorchvisionSet
from imgrec.data.view import View

__all__ = [
    "IMAGE_SUFFIXES",
    "SAMPLERS",
    "SOURCES",
    "BadImage",
    "BatchLoader",
    "BrokenCacheError",
    "CachePlan",
    "CachedImages",
    "Concat",
    "CsvTable",
    "DecodedImages",
    "Digits",
    "EvaluationOrder",
    "EvaluationSet",
    "Folder",
    "Hub",
    "ImageDataModule",
    "LabelNoise",
    "LongTail",
    "Parquet",
    "Sampler",
    "Source",
    "Splits",
    "Subset",
    "TarShards",
    "TorchvisionSet",
    "TrainingOrder",
    "TrainingSet",
    "View",
    "cache_root",
    "cached_images",
    "check_classes",
    "decode_image",
    "find_bad_images",
    "from_pil",
    "map_classes",
    "plan_cache",
    "refuse_bad_images",
    "split_source",
    "stored_caches",
    "strata",
    "stratify",
    "to_channels",
]
