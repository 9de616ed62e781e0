"""Optimizers, parameter groups and schedules."""

from imgrec.optim.lr_scaling import LearningRateScaling, scale_learning_rate
from imgrec.optim.optimizers.averaged import EvalWeightsOptimizer, find_eval_weights_optimizer
from imgrec.optim.optimizers.builtin import OPTIMIZERS
from imgrec.optim.optimizers.factory import OptimizerFactory, match_memory_format
from imgrec.optim.optimizers.lookahead import Lookahead
from imgrec.optim.optimizers.registry import build_optimizer, check_optimizer
from imgrec.optim.optimizers.sam import Asam, Sam, SharpnessAware, sam_perturbation, sharpness_aware
from imgrec.optim.optimizers.schedule_free import ScheduleFreeAdamW, ScheduleFreeSGD
from imgrec.optim.optimizers.wrapper import OptimizerWrapper
from imgrec.optim.param_groups import layer_numbers, parameter_groups
from imgrec.optim.rules import GroupRule, read_rules
from imgrec.optim.schedules.base import (
    SCHEDULES,
    Constant,
    Cosine,
    Exponential,
    Linear,
    Schedule,
    Step,
    cosine_factor,
    exponential_factor,
    linear_factor,
    step_factor,
)
from imgrec.optim.schedules.cyclic import CosineRestarts, OneCycle, cosine_restarts_factor
from imgrec.optim.schedules.decay import MultiStep, Polynomial, Wsd, polynomial_factor, wsd_factor
from imgrec.optim.schedules.plateau import Plateau
from imgrec.optim.schedules.scheduler import FollowedSchedule, build_schedule, check_schedule

__all__ = [
    "OPTIMIZERS",
    "SCHEDULES",
    "Asam",
    "Constant",
    "Cosine",
    "CosineRestarts",
    "EvalWeightsOptimizer",
    "Exponential",
    "FollowedSchedule",
    "GroupRule",
    "LearningRateScaling",
    "Linear",
    "Lookahead",
    "MultiStep",
    "OneCycle",
    "OptimizerFactory",
    "OptimizerWrapper",
    "Plateau",
    "Polynomial",
    "Sam",
    "Schedule",
    "ScheduleFreeAdamW",
    "ScheduleFreeSGD",
    "SharpnessAware",
    "Step",
    "Wsd",
    "build_optimizer",
    "build_schedule",
    "check_optimizer",
    "check_schedule",
    "cosine_factor",
    "cosine_restarts_factor",
    "exponential_factor",
    "find_eval_weights_optimizer",
    "layer_numbers",
    "linear_factor",
    "match_memory_format",
    "parameter_groups",
    "polynomial_factor",
    "read_rules",
    "sam_perturbation",
    "scale_learning_rate",
    "sharpness_aware",
    "step_factor",
    "wsd_factor",
]
