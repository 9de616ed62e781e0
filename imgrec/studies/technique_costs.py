"""Cost of each technique of a config in a training step: ``imgrec.technique_costs`` and ``imgrec cost``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgrec.errors import UserError

if TYPE_CHECKING:
    from imgrec.engine.experiment import Experiment
    from imgrec.studies.cost import StepCost, TrainingStep

_PLACE = "model."


def technique_costs(
    *config: str | Path | Mapping[str, Any], toggles: Mapping[str, Any] | None = None, rounds: int = 7
) -> dict[str, StepCost | str]:
    """Measure the cost of each technique of a config in a training step, by name.

    Args:
        config: Paths of configs, or mappings, later over earlier.
        toggles: Specs by dotted key under ``model`` that are added to the config. By default, each technique of the
            config is removed, one at a time.
        rounds: Number of measurements of each step, 1 or more. Defaults to 7.

    Returns:
        The cost of each technique, or the reason why it cannot be removed.

    Raises:
        UserError: If the config or an argument is invalid, or if the config has no technique to remove.

    Example::

        costs = imgrec.technique_costs("experiments/cifar10/fast.yaml", toggles={"model.neck": "fpn"})
        print(costs["neck fpn"].ratio)
    """
    from imgrec.engine.tuning.short_run import prepare_experiment, read_configs

    given = list((toggles or {}).items())
    check_toggles(rounds, given)
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
    from imgrec.studies.cost import compare_steps, numbered, spec_name, without_each

    own = experiment.config["model"]["init_args"]
    leaner = without_each(own)
    if not toggles and not leaner:
        raise UserError("this config has no technique to remove. Add one with --toggle.model.KEY SPEC.")
    with preserve_rng():
        batch = _batch(experiment)
        base = _step(experiment, own, batch)
        found: dict[str, StepCost | str] = {}
        for key, spec in toggles:
            changed = override(experiment.config, key, spec)["model"]["init_args"]
            name = f"{key.removeprefix(_PLACE).rstrip('+')} {spec_name(spec)}"
            found[numbered(name, found)] = compare_steps(_step(experiment, changed, batch), base, rounds)
        for name, less in {} if toggles else leaner.items():
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
    from imgrec.studies.cost import step_of
    from imgrec.tasks import BaseTask

    task: Any = instantiate({**experiment.config["model"], "init_args": model}, pl.LightningModule, "model")
    if not isinstance(task, BaseTask):
        raise UserError(f"model: {type(task).__name__} expected a subclass of imgrec.BaseTask.")
    device = experiment.trainer.strategy.root_device
    return step_of(task, *batch, device, str(experiment.trainer.precision))


def check_toggles(rounds: Any, toggles: Sequence[tuple[str, Any]]) -> None:
    """Raise an error if the arguments of a cost measurement are invalid.

    Raises:
        UserError: If ``rounds`` is below 1, or a toggled key is not under ``model``.
    """
    if not isinstance(rounds, int) or isinstance(rounds, bool) or rounds < 1:
        raise UserError(f"--rounds: expected a number, 1 or more, got {rounds!r}")
    for key, _ in toggles:
        if not key.startswith(_PLACE) or key == _PLACE:
            raise UserError(
                f"toggle {key}: expected a key under `model`, as in --toggle.model.neck fpn. Other keys do not "
                "belong to a training step."
            )
