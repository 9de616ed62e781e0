"""Cost of each technique of a config in a training step: ``imgrec.technique_costs`` and ``imgrec cost``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgrec.errors import UserError
from imgrec.utils.ranges import PositiveInt, check_ranges

if TYPE_CHECKING:
    from imgrec.engine.experiment import Experiment
    from imgrec.studies.cost import StepCost, TrainingStep

_PLACE = "model."


@check_ranges
def technique_costs(
    *config: str | Path | Mapping[str, Any], toggles: Mapping[str, Any] | None = None, rounds: PositiveInt = 7
) -> dict[str, StepCost | str]:
    """Measure the cost of each technique of a config in a training step, by name.

    Args:
        config: Paths of configs, or mappings, later over earlier.
        toggles: Specs by dotted key under ``model`` that are added to the config. By default, each technique of the
            config is removed, one at a time.
        rounds: Number of measurements of each step. Defaults to 7.

    Returns:
        The cost of each technique, or the error message of a config without it.

    Raises:
        UserError: If the config or an argument is invalid, or if the config has no technique to remove.

    Example::

        costs = imgrec.technique_costs("experiments/cifar10/fast.yaml", toggles={"model.neck": "fpn"})
        print(costs["neck fpn"].ratio)
    """
    from imgrec.engine.tuning.short_run import prepare_experiment, read_configs

    given = list((toggles or {}).items())
    check_toggles(given)
    return step_costs(prepare_experiment(read_configs(*config)), given, rounds)[1]


def step_costs(
    experiment: Experiment, toggles: list[tuple[str, Any]], rounds: int
) -> tuple[TrainingStep, dict[str, StepCost | str]]:
    """Measure the step of an experiment and the cost of each technique. Random generators are restored.

    Args:
        experiment: Experiment of :func:`imgrec.engine.tuning.short_run.prepare_experiment`.
        toggles: Dotted keys and specs to add. If empty, each technique of the config is removed.
        rounds: Number of measurements of each step.

    Raises:
        UserError: If a step cannot be built, or if the config has no technique.
    """
    from imgrec.engine.config import override
    from imgrec.engine.tuning.short_run import preserve_rng
    from imgrec.studies.cost import compare_steps, remove_each, spec_name, unique_name

    arguments = experiment.config["model"]["init_args"]
    reduced = remove_each(arguments)
    if not toggles and not reduced:
        raise UserError("this config has no technique to remove. Add one with --toggle.model.KEY SPEC.")
    with preserve_rng():
        batch = _batch(experiment)
        base = _step(experiment, arguments, batch)
        found: dict[str, StepCost | str] = {}
        for key, spec in toggles:
            changed = override(experiment.config, key, spec)["model"]["init_args"]
            name = f"{key.removeprefix(_PLACE).rstrip('+')} {spec_name(spec)}"
            found[unique_name(name, found)] = compare_steps(_step(experiment, changed, batch), base, rounds)
        for name, less in {} if toggles else reduced.items():
            try:
                found[name] = compare_steps(base, _step(experiment, less, batch), rounds)
            except UserError as error:  # a margin loss requires its head
                found[name] = str(error)
    return base, found


def _batch(experiment: Experiment) -> tuple[Any, int]:
    """Return the facts of the data and the number of images in a batch."""
    from imgrec.types import DataFacts

    experiment.data.prepare_data()
    experiment.data.setup("fit")
    facts = getattr(experiment.data, "facts", None)
    size = experiment.config["data"]["init_args"].get("batch_size")
    if isinstance(facts, DataFacts) and size == "all":
        size = sum(facts.class_counts)
    if not isinstance(facts, DataFacts) or not isinstance(size, int):
        raise UserError(f"data: {experiment.config['data']['class_path']} expected facts and a batch size, got none.")
    return facts, size


def _step(experiment: Experiment, model: Mapping[str, Any], batch: tuple[Any, int]) -> TrainingStep:
    """Build the training step of the task with other arguments."""
    import pytorch_lightning as pl

    from imgrec.engine.instantiate import instantiate
    from imgrec.studies.cost import build_step
    from imgrec.tasks import BaseTask

    task: Any = instantiate({**experiment.config["model"], "init_args": model}, pl.LightningModule, "model")
    if not isinstance(task, BaseTask):
        raise UserError(f"model: {type(task).__name__} expected a subclass of imgrec.BaseTask.")
    device = experiment.trainer.strategy.root_device
    return build_step(task, *batch, device, str(experiment.trainer.precision))


def check_toggles(toggles: Sequence[tuple[str, Any]]) -> None:
    """Check that all toggled keys belong to the model.

    Raises:
        UserError: If a toggled key is not under ``model``.
    """
    for key, _ in toggles:
        if not key.startswith(_PLACE) or key == _PLACE:
            raise UserError(
                f"toggle {key}: expected a key under `model`, as in --toggle.model.neck fpn. Other keys do not "
                "belong to a training step."
            )
