"""Data: sources, splits, loading, and the data module that holds them together."""

from imgrec.data.bad_images import find_bad_images, refuse_bad_images
from imgrec.data.cache.plan import CachePlan, plan_cache
from imgrec.data.cache.policy import open_cache
from imgrec.data.cache.registry import cache_root, stored_caches
from imgrec.data.cache.storage import BrokenCacheError, CachedImages, DecodedImages
from imgrec.data.decoding.image import IMAGE_SUFFIXES, BadImage, decode_image, from_pil, to_channels
from imgrec.data.loading import BatchLoader, EvaluationSet, TrainingSet
from imgrec.data.module import ImageDataModule
from imgrec.data.samplers.balanced import SAMPLERS, Sampler, strata
from imgrec.data.samplers.order import EvaluationSampler, TrainingSampler
from imgrec.data.sources.base import SOURCES, Source, SourceView
from imgrec.data.sources.csv import CsvTable
from imgrec.data.sources.digits import Digits
from imgrec.data.sources.folder import Folder
from imgrec.data.sources.huggingface import Hub
from imgrec.data.sources.parquet import Parquet
from imgrec.data.sources.torch_dataset import TorchDataset
from imgrec.data.sources.torchvision import TorchvisionSet
from imgrec.data.sources.webdataset import TarShards
from imgrec.data.splits.assign import Splits, split_source
from imgrec.data.splits.stratify import stratify
from imgrec.data.wrappers.class_mapping import check_classes, map_classes
from imgrec.data.wrappers.concat import Concat, ConcatSource
from imgrec.data.wrappers.label_noise import LabelNoise
from imgrec.data.wrappers.long_tail import LongTail
from imgrec.data.wrappers.subset import Subset

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
    "ConcatSource",
    "CsvTable",
    "DecodedImages",
    "Digits",
    "EvaluationSampler",
    "EvaluationSet",
    "Folder",
    "Hub",
    "ImageDataModule",
    "LabelNoise",
    "LongTail",
    "Parquet",
    "Sampler",
    "Source",
    "SourceView",
    "Splits",
    "Subset",
    "TarShards",
    "TorchDataset",
    "TorchvisionSet",
    "TrainingSampler",
    "TrainingSet",
    "cache_root",
    "check_classes",
    "decode_image",
    "find_bad_images",
    "from_pil",
    "map_classes",
    "open_cache",
    "plan_cache",
    "refuse_bad_images",
    "split_source",
    "stored_caches",
    "strata",
    "stratify",
    "to_channels",
]
