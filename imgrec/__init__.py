"""imgrec: a research framework for image recognition on PyTorch Lightning.

The few names that a researcher imports, each loaded when it is first used::

    import imgrec
    run = imgrec.RunFolder("runs/digits/quickstart/20261121-143005")
    imgrec.load(run).predict(["a.png", "b.png"])
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

# Linux gives torch's large tensors huge pages where it is asked to: on a CPU, photographs are normalized 2.7 times as
# fast and EfficientNet-Lite0 trains 1.1 times as fast, to the same bits (benchmarks/huge_pages.py). torch asks once.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

_WHERE = {
    "AUGMENTATIONS": "imgrec.augment",
    "AdaptiveClipping": "imgrec.callbacks",
    "AugmentationStrength": "imgrec.callbacks",
    "BACKBONES": "imgrec.models",
    "BaseTask": "imgrec.tasks",
    "Batch": "imgrec.types",
    "BestCheckpoint": "imgrec.callbacks",
    "Callback": "imgrec.callbacks",
    "ClassificationTask": "imgrec.tasks",
    "Classifier": "imgrec.models",
    "DISTILLATIONS": "imgrec.losses",
    "DataFacts": "imgrec.types",
    "DistillationTask": "imgrec.tasks",
    "EMA": "imgrec.callbacks",
    "EarlyStopping": "imgrec.callbacks",
    "EpochPictures": "imgrec.callbacks",
    "FORMATS": "imgrec.export",
    "Freeze": "imgrec.callbacks",
    "GradualUnfreezing": "imgrec.callbacks",
    "HEADS": "imgrec.models",
    "ImageDataModule": "imgrec.data",
    "ImageSizeSchedule": "imgrec.callbacks",
    "LOSSES": "imgrec.losses",
    "MaxNorm": "imgrec.callbacks",
    "NaNGuard": "imgrec.callbacks",
    "OPTIMIZERS": "imgrec.optim",
    "Pruning": "imgrec.callbacks",
    "QAT": "imgrec.callbacks",
    "REGULARIZERS": "imgrec.regularizers",
    "LastCheckpoint": "imgrec.callbacks",
    "LayerStatistics": "imgrec.callbacks",
    "RUNTIMES": "imgrec.export",
    "RunFolder": "imgrec.runs.folder",
    "RunRecorder": "imgrec.callbacks",
    "SCHEDULES": "imgrec.optim",
    "SOURCES": "imgrec.data",
    "StructuredPruning": "imgrec.callbacks",
    "StepOutput": "imgrec.types",
    "TensorBoardLogger": "imgrec.loggers.tensorboard",
    "TestTimeViews": "imgrec.callbacks",
    "TrainingFailedError": "imgrec.errors",
    "UserError": "imgrec.errors",
    "WandbLogger": "imgrec.loggers.wandb.logger",
    "compare_runs": "imgrec.compare.comparison",
    "compress_run": "imgrec.cli.commands.compress",
    "evaluate_run": "imgrec.engine.evaluate",
    "find_batch_size": "imgrec.cli.commands.batch_find",
    "find_learning_rate": "imgrec.cli.commands.lr_find",
    "load": "imgrec.runs.load",
    "run_table": "imgrec.runs.table",
    "soup_runs": "imgrec.cli.commands.soup",
    "technique_costs": "imgrec.cli.commands.cost",
}

__all__ = [
    "AUGMENTATIONS",
    "BACKBONES",
    "DISTILLATIONS",
    "EMA",
    "FORMATS",
    "HEADS",
    "LOSSES",
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
    "compare_runs",
    "compress_run",
    "evaluate_run",
    "find_batch_size",
    "find_learning_rate",
    "load",
    "run_table",
    "soup_runs",
    "technique_costs",
]

if TYPE_CHECKING:
    from imgrec.augment import AUGMENTATIONS
    from imgrec.callbacks import (
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
    from imgrec.cli.commands.batch_find import find_batch_size
    from imgrec.cli.commands.compress import compress_run
    from imgrec.cli.commands.cost import technique_costs
    from imgrec.cli.commands.lr_find import find_learning_rate
    from imgrec.cli.commands.soup import soup_runs
    from imgrec.compare.comparison import compare_runs
    from imgrec.data import SOURCES, ImageDataModule
    from imgrec.engine.evaluate import evaluate_run
    from imgrec.errors import TrainingFailedError, UserError
    from imgrec.export import FORMATS, RUNTIMES
    from imgrec.loggers.tensorboard import TensorBoardLogger
    from imgrec.loggers.wandb.logger import WandbLogger
    from imgrec.losses import DISTILLATIONS, LOSSES
    from imgrec.models import BACKBONES, HEADS, Classifier
    from imgrec.optim import OPTIMIZERS, SCHEDULES
    from imgrec.regularizers import REGULARIZERS
    from imgrec.runs.folder import RunFolder
    from imgrec.runs.load import load
    from imgrec.runs.table import run_table
    from imgrec.tasks import BaseTask, ClassificationTask, DistillationTask
    from imgrec.types import Batch, DataFacts, StepOutput


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'imgrec' has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
