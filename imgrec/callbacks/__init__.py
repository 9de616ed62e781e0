"""When things happen; what happens is in the room that owns it."""

from imgrec.callbacks.adaptive_clipping import AdaptiveClipping
from imgrec.callbacks.augmentation import AugmentationStrength, ImageSizeSchedule
from imgrec.callbacks.best_checkpoint import BestCheckpoint
from imgrec.callbacks.checkpoint_io import WholeCheckpointIO
from imgrec.callbacks.early_stopping import EarlyStopping
from imgrec.callbacks.ema import EMA
from imgrec.callbacks.epoch_pictures import EpochPictures
from imgrec.callbacks.freeze import Freeze
from imgrec.callbacks.gradual_unfreezing import GradualUnfreezing
from imgrec.callbacks.guard import NaNGuard
from imgrec.callbacks.last_checkpoint import LastCheckpoint
from imgrec.callbacks.layer_statistics import LayerStatistics
from imgrec.callbacks.lean import make_lean
from imgrec.callbacks.max_norm import MaxNorm
from imgrec.callbacks.metrics_logger import MetricsLogger
from imgrec.callbacks.monitors import MonitorCheck
from imgrec.callbacks.progress import EpochProgress
from imgrec.callbacks.pruning import Pruning
from imgrec.callbacks.qat import QAT
from imgrec.callbacks.rank_watch import RankWatch
from imgrec.callbacks.recorder import RunRecorder
from imgrec.callbacks.resuming import ExactResume
from imgrec.callbacks.seeding import PositionalSeeding
from imgrec.callbacks.structured_pruning import StructuredPruning
from imgrec.callbacks.system_figures import SystemFigures
from imgrec.callbacks.tta import TestTimeViews

__all__ = [
    "EMA",
    "QAT",
    "AdaptiveClipping",
    "AugmentationStrength",
    "BestCheckpoint",
    "EarlyStopping",
    "EpochPictures",
    "EpochProgress",
    "ExactResume",
    "Freeze",
    "GradualUnfreezing",
    "ImageSizeSchedule",
    "LastCheckpoint",
    "LayerStatistics",
    "MaxNorm",
    "MetricsLogger",
    "MonitorCheck",
    "NaNGuard",
    "PositionalSeeding",
    "Pruning",
    "RankWatch",
    "RunRecorder",
    "StructuredPruning",
    "SystemFigures",
    "TestTimeViews",
    "WholeCheckpointIO",
    "make_lean",
]
