"""Config of a training step of a compression: the recipe of the run with fewer epochs and a lower learning rate."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from imgrec.compress.steps import Finetune, Mask, Qat, Training
from imgrec.errors import UserError
from imgrec.optim import OPTIMIZERS

TASK, DISTILLATION_TASK = "imgrec.ClassificationTask", "imgrec.DistillationTask"
_LR_FACTORS = {Finetune: 0.1, Qat: 0.01}
"""Default learning rate of a step, as a fraction of the learning rate of the run."""
_COMPRESSION_CALLBACKS = ("Pruning", "StructuredPruning", "QAT")
_QAT_INCOMPATIBLE = ("LayerStatistics", "ImageSizeSchedule")
"""Callbacks that do not support the traced model of quantization-aware training."""
_LIMITS = ("max_steps", "min_steps", "min_epochs", "max_time")

Config = dict[str, Any]


def training_config(
    run: Mapping[str, Any], step: Training, start: str, teacher: str, mask: Mask | None = None, is_masked: bool = False
) -> Config:
    """Return the config of a training step. ``imgrec fit --config`` on it repeats the step.

    Data, losses, augmentation, schedule and callbacks are those of the run. The training uses one device. Callbacks
    that pruned or quantized the run are removed, because the initial model is pruned or quantized already.

    Args:
        run: Resolved config of the compressed run.
        step: Training step of a plan.
        start: Run folder or model folder with the initial weights.
        teacher: Run folder of the teacher if the step distills.
        mask: Sparsity to reach and keep. Defaults to none.
        is_masked: True if the initial weights have this sparsity. Defaults to False.

    Raises:
        UserError: If the task of the run does not support distillation, or if its optimizer has no learning rate.
    """
    config: Config = copy.deepcopy({k: v for k, v in run.items() if k in ("seed_everything", "data")})
    model = copy.deepcopy(dict(run["model"]))
    arguments = {**(model.get("init_args") or {}), "init_from": start}
    arguments["optimizer"] = _optimizer(arguments.get("optimizer", "adamw"), step)
    class_path = model.get("class_path", TASK)
    if step.distill:
        class_path, arguments["teacher"] = _distillation_task(class_path), teacher
    config["model"] = {"class_path": class_path, "init_args": arguments}
    trainer = {k: v for k, v in copy.deepcopy(dict(run.get("trainer") or {})).items() if k not in _LIMITS}
    trainer |= {"max_epochs": step.epochs, "devices": 1, "num_nodes": 1, "strategy": "auto"}
    trainer["callbacks"] = _callbacks(trainer.get("callbacks"), step, mask, is_masked)
    config["trainer"] = trainer
    config["evaluate_after_fit"] = True
    return config


def callback_name(callback: Any) -> str:
    """Return the class name of a callback in a config, without its module."""
    path = callback.get("class_path", "") if isinstance(callback, Mapping) else callback
    return str(path).rpartition(".")[2]


def _optimizer(optimizer: Any, step: Training) -> Config:
    name, given = OPTIMIZERS.parse(optimizer, "model.optimizer")
    lr = step.lr
    if lr is None:
        parameter = OPTIMIZERS.entry(name).parameters.get("lr")
        before = given.get("lr", None if parameter is None else parameter.default)
        if not isinstance(before, int | float):
            raise UserError(
                f"{step.name}.lr: expected a learning rate, because the optimizer {name} of the run has none."
            )
        lr = float(f"{before * _LR_FACTORS[type(step)]:.6g}")
    return {"name": name, **given, "lr": lr}


def _distillation_task(class_path: str) -> str:
    if class_path.rpartition(".")[2] in (TASK.rpartition(".")[2], DISTILLATION_TASK.rpartition(".")[2]):
        return DISTILLATION_TASK
    raise UserError(f"distill: expected a run of {TASK}, got the custom task {class_path}, which has no teacher.")


def _callbacks(given: Any, step: Training, mask: Mask | None, is_masked: bool) -> list[Any]:
    listed = given if isinstance(given, list) else [] if given is None else [given]
    excluded = (*_COMPRESSION_CALLBACKS, *(_QAT_INCOMPATIBLE if isinstance(step, Qat) else ()))
    kept = [each for each in listed if callback_name(each) not in excluded]
    if step.ema is not None:
        kept = [each for each in kept if callback_name(each) != "EMA"]
        kept.append({"class_path": "EMA", "init_args": {"decay": step.ema}})
    if mask is not None:
        kept.append({"class_path": "Pruning", "init_args": _keep_mask(mask) if is_masked else _reach_mask(mask)})
    if isinstance(step, Qat):
        kept.append({"class_path": "QAT", "init_args": {"start": 0.0}})
    return kept


def _reach_mask(mask: Mask) -> Config:
    given: Config = {"criterion": mask.criterion, "scope": mask.scope, "start": 0.0}
    given |= {"sparsity": mask.sparsity} if mask.pattern is None else {"pattern": mask.pattern}
    at_once = mask.schedule == "one_shot" or mask.criterion == "snip" or mask.pattern is not None
    return given | ({"schedule": "one_shot"} if at_once else {"schedule": mask.schedule, "end": 0.5})


def _keep_mask(mask: Mask) -> Config:
    """Return the arguments that mask the smallest magnitudes, which are the zeros of the initial weights."""
    share = {"sparsity": mask.sparsity} if mask.pattern is None else {"pattern": mask.pattern}
    return {**share, "scope": mask.scope, "criterion": "magnitude", "schedule": "one_shot", "start": 0.0}
