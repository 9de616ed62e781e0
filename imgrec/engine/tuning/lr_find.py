"""Learning-rate range test of a config: ``imgrec.find_learning_rate`` and ``imgrec lr-find``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgrec.errors import UserError

if TYPE_CHECKING:
    from imgrec.engine.experiment import Experiment
    from imgrec.optim.lr_range_test import RangeTest


def find_learning_rate(
    *config: str | Path | Mapping[str, Any],
    steps: int = 100,
    low: float = 1e-6,
    high: float = 10.0,
    stop_at: float = 4.0,
) -> RangeTest:
    """Run the learning-rate range test of a config, on a copy that leaves no files.

    Args:
        config: Paths of configs, or mappings, later over earlier.
        steps: Optimizer steps, 10 or more. Defaults to 100.
        low: Learning rate of the first step, above 0. Defaults to 1e-6.
        high: Learning rate of the last step, above ``low``. Defaults to 10.
        stop_at: Factor above 1. The test stops if the loss exceeds its smallest running mean by it. Defaults to 4.

    Returns:
        Learning rates and losses. ``suggestions()`` returns the suggested rates by rule.

    Raises:
        UserError: If the config or an argument is invalid.

    Example::

        found = imgrec.find_learning_rate("experiments/digits/quickstart.yaml")
        print(found.suggestions()["steepest"])
    """
    from imgrec.engine.tuning.short_run import prepare_experiment, read_configs

    check_range(steps, low, high, stop_at)
    return range_test(prepare_experiment(read_configs(*config)), steps, low, high, stop_at)


def range_test(experiment: Experiment, steps: int, low: float, high: float, stop_at: float) -> RangeTest:
    """Run the range test on a copy of an experiment (:func:`imgrec.engine.tuning.short_run.train_briefly`)."""
    from imgrec.callbacks.lr_range_test import LearningRateRange
    from imgrec.engine.tuning.short_run import train_briefly
    from imgrec.optim.lr_range_test import exponential_rates

    _, base = configured_rate(experiment)
    watching = LearningRateRange(exponential_rates(low, high, steps), base, stop_at)
    train_briefly(experiment, watching)
    return watching.result


def configured_rate(experiment: Experiment) -> tuple[str, float | None]:
    """Return the key and the value of the learning rate in the config. The value of a custom task is ``None``.

    Raises:
        UserError: If the optimizer has no learning rate.
    """
    from imgrec.optim import OPTIMIZERS
    from imgrec.tasks import BaseTask

    place = "model.optimizer"
    if not isinstance(experiment.task, BaseTask):
        return f"{place}.lr", None
    spec: Any = experiment.task.optimizer_spec
    while True:
        name, given = OPTIMIZERS.parse(spec, place)
        parameters = OPTIMIZERS.entry(name, place).parameters
        if "lr" in given or "lr" in parameters:
            rate = given.get("lr", parameters["lr"].default if "lr" in parameters else None)
            if not isinstance(rate, int | float):
                raise UserError(f"{place}: {name} expected a learning rate `lr`, got none.")
            return f"{place}.lr", float(rate)
        if "base" not in parameters:  # a wrapper of another optimizer
            raise UserError(f"{place}: {name} has no learning rate.")
        spec, place = given.get("base", parameters["base"].default), f"{place}.base"


def check_range(steps: Any, low: Any, high: Any, stop_at: Any) -> None:
    """Raise an error if the arguments of a range test are invalid.

    Raises:
        UserError: If an argument is out of range.
    """
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 10:
        raise UserError(f"--steps: expected a number, 10 or more, got {steps!r}")
    for key, value in (("low", low), ("high", high), ("stop-at", stop_at)):
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise UserError(f"--{key}: expected a number, got {value!r}")
    if not 0 < low < high < float("inf"):
        raise UserError(
            f"--low and --high: expected two learning rates above 0, the lower one first, got {low}, {high}"
        )
    if not stop_at > 1:
        raise UserError(f"--stop-at: expected a number above 1, got {stop_at}")
