"""Executed examples of the public names. Those of registry entries are checked by the contract tests."""

from __future__ import annotations

import inspect
import re

import imgrec

MISSING: frozenset[str] = frozenset(
    {
        "AdaptiveClipping",
        "BaseTask",
        "BestCheckpoint",
        "ClassificationTask",
        "DataFacts",
        "DistillationTask",
        "EMA",
        "EarlyStopping",
        "EpochPictures",
        "Freeze",
        "GradualUnfreezing",
        "ImageSizeSchedule",
        "LastCheckpoint",
        "LayerStatistics",
        "MaxNorm",
        "NaNGuard",
        "Pruning",
        "QAT",
        "RunFolder",
        "RunRecorder",
        "StructuredPruning",
        "TensorBoardLogger",
        "TestTimeViews",
        "TrainingFailedError",
        "UserError",
        "WandbLogger",
        "bench_runs",
        "evaluate",
        "evaluate_split",
        "predict",
        "resume",
        "compare_runs",
        "compress_run",
        "evaluate_run",
        "find_batch_size",
        "find_learning_rate",
        "load",
        "run_table",
        "soup_runs",
        "technique_costs",
    }
)
"""Public classes and functions without an example. Remove a name when its docstring has one, and add none."""

_EXECUTED = re.compile(r"^\s*>>> (?!.*doctest: \+SKIP)", re.MULTILINE)


def test_every_public_class_and_function_has_an_executed_example() -> None:
    public = {name: getattr(imgrec, name) for name in imgrec.__all__}
    documented = {name: value for name, value in public.items() if inspect.isclass(value) or inspect.isroutine(value)}
    missing = {name for name, value in documented.items() if not _EXECUTED.search(value.__doc__ or "")}
    assert missing == MISSING, f"new: {sorted(missing - MISSING)}; remove from MISSING: {sorted(MISSING - missing)}"
