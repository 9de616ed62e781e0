"""Callbacks: the events of a training. The techniques are in the packages that own them. Earlier names are aliases."""

from imgrec.callbacks.adaptive_clipping import AdaptiveClipping
from imgrec.callbacks.augmentation import AugmentationStrength, ImageSizeSchedule
from imgrec.callbacks.checkpoints.best import BestCheckpoint
from imgrec.callbacks.checkpoints.exact_resume import ResumeState
from imgrec.callbacks.checkpoints.io import AtomicCheckpointIO
from imgrec.callbacks.checkpoints.last import LastCheckpoint
from imgrec.callbacks.compression.pruning import Pruning
from imgrec.callbacks.compression.qat import QAT
from imgrec.callbacks.compression.structured_pruning import StructuredPruning
from imgrec.callbacks.early_stopping import EarlyStopping
from imgrec.callbacks.ema import EMA
from imgrec.callbacks.finetuning.freeze import Freeze
from imgrec.callbacks.finetuning.gradual_unfreezing import GradualUnfreezing
from imgrec.callbacks.hook_overhead import remove_hook_overhead
from imgrec.callbacks.max_norm import MaxNorm
from imgrec.callbacks.monitoring.images import EpochPictures
from imgrec.callbacks.monitoring.layer_statistics import LayerStatistics
from imgrec.callbacks.monitoring.metric_names import MetricNameCheck
from imgrec.callbacks.monitoring.progress import EpochProgress
from imgrec.callbacks.monitoring.system import SystemMonitor
from imgrec.callbacks.nan_guard.guard import NaNGuard
from imgrec.callbacks.rank_watch import RankWatch
from imgrec.callbacks.recording.recorder import RunRecorder
from imgrec.callbacks.seeding import PositionalSeeding
from imgrec.callbacks.test_time_augmentation import TestTimeViews
from imgrec.loggers.csv import MetricsLogger
from imgrec.tasks.callback import Callback

ExactResume = ResumeState
MonitorCheck = MetricNameCheck
SystemFigures = SystemMonitor
WholeCheckpointIO = AtomicCheckpointIO
make_lean = remove_hook_overhead

__all__ = [
    "EMA",
    "QAT",
    "AdaptiveClipping",
    "AtomicCheckpointIO",
    "AugmentationStrength",
    "BestCheckpoint",
    "Callback",
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
    "MetricNameCheck",
    "MetricsLogger",
    "MonitorCheck",
    "NaNGuard",
    "PositionalSeeding",
    "Pruning",
    "RankWatch",
    "ResumeState",
    "RunRecorder",
    "StructuredPruning",
    "SystemFigures",
    "SystemMonitor",
    "TestTimeViews",
    "WholeCheckpointIO",
    "make_lean",
    "remove_hook_overhead",
]
