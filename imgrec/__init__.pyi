"""Public names of imgrec. ``imgrec/__init__.py`` loads each of them when it is first used."""

from .augment import AUGMENTATIONS
from .bench.run import bench_runs
from .callbacks import (
    EMA,
    QAT,
    AdaptiveClipping,
    AugmentationStrength,
    BestCheckpoint,
    Callback,
    EarlyStopping,
    EpochPictures,
    Freeze,
    GradualUnfreezing,
    ImageSizeSchedule,
    LastCheckpoint,
    LayerStatistics,
    MaxNorm,
    NaNGuard,
    Pruning,
    RunRecorder,
    StructuredPruning,
    TestTimeViews,
)
from .compare.comparison import compare_runs
from .data import SOURCES, ImageDataModule
from .engine.evaluation.evaluate import evaluate, evaluate_run
from .engine.evaluation.predict import predict
from .engine.evaluation.split_evaluation import evaluate_split
from .engine.fit import fit
from .engine.resume import resume
from .engine.tuning.batch_find import find_batch_size
from .engine.tuning.lr_find import find_learning_rate
from .errors import TrainingFailedError, UserError
from .export import FORMATS, RUNTIMES
from .loggers.tensorboard import TensorBoardLogger
from .loggers.wandb.logger import WandbLogger
from .losses import DISTILLATIONS, LOSSES
from .metrics import METRICS
from .models import BACKBONES, HEADS, Classifier
from .optim import OPTIMIZERS, SCHEDULES
from .regularizers import REGULARIZERS
from .runs.folder import RunFolder
from .runs.load import load
from .runs.table import run_table
from .studies.compression.run import compress_run
from .studies.soup.run import soup_runs
from .studies.technique_costs import technique_costs
from .tasks import BaseTask, ClassificationTask, DistillationTask
from .types import Batch, DataFacts, StepOutput

__all__ = [
    "AUGMENTATIONS",
    "BACKBONES",
    "DISTILLATIONS",
    "EMA",
    "FORMATS",
    "HEADS",
    "LOSSES",
    "METRICS",
    "OPTIMIZERS",
    "QAT",
    "REGULARIZERS",
    "RUNTIMES",
    "SCHEDULES",
    "SOURCES",
    "AdaptiveClipping",
    "AugmentationStrength",
    "BaseTask",
    "Batch",
    "BestCheckpoint",
    "Callback",
    "ClassificationTask",
    "Classifier",
    "DataFacts",
    "DistillationTask",
    "EarlyStopping",
    "EpochPictures",
    "Freeze",
    "GradualUnfreezing",
    "ImageDataModule",
    "ImageSizeSchedule",
    "LastCheckpoint",
    "LayerStatistics",
    "MaxNorm",
    "NaNGuard",
    "Pruning",
    "RunFolder",
    "RunRecorder",
    "StepOutput",
    "StructuredPruning",
    "TensorBoardLogger",
    "TestTimeViews",
    "TrainingFailedError",
    "UserError",
    "WandbLogger",
    "bench_runs",
    "compare_runs",
    "compress_run",
    "evaluate",
    "evaluate_run",
    "evaluate_split",
    "find_batch_size",
    "find_learning_rate",
    "fit",
    "load",
    "predict",
    "resume",
    "run_table",
    "soup_runs",
    "technique_costs",
]
