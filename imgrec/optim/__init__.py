"""Optimizers, parameter groups and schedules."""

from imgrec.optim.factory import OptimizerFactory
from imgrec.optim.groups import layer_numbers, parameter_groups
from imgrec.optim.optimizers import OPTIMIZERS, build_optimizer, check_optimizer
from imgrec.optim.scheduler import build_schedule, check_schedule
from imgrec.optim.schedules import (
    SCHEDULES,
    Constant,
    Cosine,
    Exponential,
    Schedule,
    Step,
    cosine_factor,
    exponential_factor,
    step_factor,
)

__all__ = [
    "OPTIMIZERS",
    "SCHEDULES",
    "Constant",
    "Cosine",
    "Exponential",
    "OptimizerFactory",
    "Schedule",
    "Step",
    "build_optimizer",
    "build_schedule",
    "check_optimizer",
    "check_schedule",
    "cosine_factor",
    "exponential_factor",
    "layer_numbers",
    "parameter_groups",
    "step_factor",
]
