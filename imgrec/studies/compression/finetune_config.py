"""The config of a training that goes on from a run's network: the run's own recipe, shorter and gentler."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from imgrec.compress.steps import Finetune, Mask, Qat, Training
from imgrec.errors import UserError
from imgrec.optim import OPTIMIZERS

TASK, DISTILLING = "imgrec.ClassificationTask", "imgrec.DistillationTask"
_GENTLER = {Finetune: 0.1, Qat: 0.01}
"""The part of the run's learning rate that a step takes by default."""
_COMPRESSING = ("Pruning", "StructuredPruning", "QAT")
_UNTRACED = ("LayerStatistics", "ImageSizeSchedule")
"""Callbacks that a network which was traced for int8 cannot have."""
_ENDS = ("max_steps", "min_steps", "min_epochs", "max_time")

Config = dict[str, Any]


def training_config(
    run: Mapping[str, Any], step: Training, start: str, teacher: str, mask: Mask | None = None, held: bool = False
) -> Config:
    """The config that carries out a step that trains; ``imgrec fit --config`` on it repeats the step.

    Data, losses, augmentation, schedule and callbacks are the run's own. It trains on one device, and what the run
    itself was pruned or quantized by is not done again: the network that training starts from has it.

    Args:
        run: the resolved config of the run that is compressed.
        step: what trains.
        start: what training starts from: a run folder or a model folder.
        teacher: the run folder that is learnt from, where the step distills.
        mask: the zeros to reach and hold.
        held: whether training starts with these zeros already.

    Raises:
        UserError: the run's task cannot be taught by another network, or its optimizer has no learning rate.
    """
    config: Config = copy.deepcopy({k: v for k, v in run.items() if k in ("seed_everything", "data")})
    model = copy.deepcopy(dict(run["model"]))
    arguments = {**(model.get("init_args") or {}), "init_from": start}
    arguments["optimizer"] = _gentler(arguments.get("optimizer", "adamw"), step)
    class_path = model.get("class_path", TASK)
    if step.distill:
        class_path, arguments["teacher"] = _taught(class_path), teacher
    config["model"] = {"class_path": class_path, "init_args": arguments}
    trainer = {k: v for k, v in copy.deepcopy(dict(run.get("trainer") or {})).items() if k not in _ENDS}
    trainer |= {"max_epochs": step.epochs, "devices": 1, "num_nodes": 1, "strategy": "auto"}
    trainer["callbacks"] = _callbacks(trainer.get("callbacks"), step, mask, held)
    config["trainer"] = trainer
    config["evaluate_after_fit"] = True
    return config


def class_name(callback: Any) -> str:
    """The bare name of the class of a callback in a config."""
    path = callback.get("class_path", "") if isinstance(callback, Mapping) else callback
    return str(path).rpartition(".")[2]


def _gentler(optimizer: Any, step: Training) -> Config:
    name, given = OPTIMIZERS.parse(optimizer, "model.optimizer")
    lr = step.lr
    if lr is None:
        parameter = OPTIMIZERS.entry(name).parameters.get("lr")
        before = given.get("lr", None if parameter is None else parameter.default)
        if not isinstance(before, int | float):
            raise UserError(f"{step.name}: the run's optimizer {name} names no learning rate; give the step's `lr`")
        lr = float(f"{before * _GENTLER[type(step)]:.6g}")
    return {"name": name, **given, "lr": lr}


def _taught(class_path: str) -> str:
    if class_path.rpartition(".")[2] in (TASK.rpartition(".")[2], DISTILLING.rpartition(".")[2]):
        return DISTILLING
    raise UserError(f"distill: the run was trained by a task of its own, {class_path}, which takes no teacher")


def _callbacks(given: Any, step: Training, mask: Mask | None, held: bool) -> list[Any]:
    listed = given if isinstance(given, list) else [] if given is None else [given]
    left_out = (*_COMPRESSING, *(_UNTRACED if isinstance(step, Qat) else ()))
    kept = [each for each in listed if class_name(each) not in left_out]
    if step.ema is not None:
        kept = [each for each in kept if class_name(each) != "EMA"]
        kept.append({"class_path": "EMA", "init_args": {"decay": step.ema}})
    if mask is not None:
        kept.append({"class_path": "Pruning", "init_args": _held(mask) if held else _reached(mask)})
    if isinstance(step, Qat):
        kept.append({"class_path": "QAT", "init_args": {"start": 0.0}})
    return kept


def _reached(mask: Mask) -> Config:
    given: Config = {"criterion": mask.criterion, "scope": mask.scope, "start": 0.0}
    given |= {"sparsity": mask.sparsity} if mask.pattern is None else {"pattern": mask.pattern}
    at_once = mask.schedule == "one_shot" or mask.criterion == "snip" or mask.pattern is not None
    return given | ({"schedule": "one_shot"} if at_once else {"schedule": mask.schedule, "end": 0.5})


def _held(mask: Mask) -> Config:
    """The zeros that are there already are the weights of the smallest magnitude."""
    share = {"sparsity": mask.sparsity} if mask.pattern is None else {"pattern": mask.pattern}
    return {**share, "scope": mask.scope, "criterion": "magnitude", "schedule": "one_shot", "start": 0.0}
