"""``imgrec cost``: what each technique costs a training step, in time, memory, parameters and multiplications."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgrec.cli.options import parse
from imgrec.errors import UserError
from imgrec.utils.terminal import print

if TYPE_CHECKING:
    from imgrec.engine.experiment import Engine
    from imgrec.studies.cost import StepCost, TrainingStep

HELP = """usage: imgrec cost CONFIG.yaml [CONFIG.yaml ...] [--toggle.model.KEY SPEC ...] [--key.subkey VALUE ...]

What each technique costs: a training step with it beside the same step without it, in turn. Without --toggle these are
the techniques that the config names: its loss beside cross-entropy; each regularizer, edit, neck, pooling and head; and
an optimizer that wraps another.

  CONFIG, -c FILE      a config; several are merged, later over earlier
  --toggle.KEY SPEC    what this one would cost, in the place of the config's own: --toggle.model.neck fpn;
                       --toggle.model.regularizers+ '{name: l2, weight: 1e-4}' beside what is there; as often as wanted
  --rounds N           how often each step is measured (default: 7)
  --csv FILE           write the figures, too
  --key.subkey VALUE   one value: --data.batch_size 256

The step is forward, loss, penalties, backward and optimizer on one batch of noise of the data's size, in the config's
precision and order in memory; callbacks, and loading and augmenting images, are not in it. Time is the median of the
ratios of a step to the other, of the processor's seconds, or by the clock on a GPU; memory is what all tensors take at
the fullest moment of a step, counted; parameters are those that are trained; MACs are those of one image.
"""

DEFAULTS: dict[str, Any] = {"rounds": 7, "csv": None}
_PLACE = "model."


def run(command: str, words: list[str]) -> int:
    """Measure, and print a table."""
    arguments = parse(words)
    if arguments.help:
        print(HELP, end="")
        return 0
    given = DEFAULTS | {key: value for key, value in arguments.overrides if key in DEFAULTS}
    toggled = {key: key.partition(".")[2] for key, _ in arguments.overrides if key.partition(".")[0] == "toggle"}
    toggles = [(toggled[key], value) for key, value in arguments.overrides if key in toggled]
    _check(given, toggles)

    from imgrec.engine.short_run import engine_of_words

    engine = engine_of_words(command, arguments, {*DEFAULTS, *toggled})
    base, found = step_costs(engine, toggles, given["rounds"])
    _say(base, found, given["csv"])
    return 0


def technique_costs(
    *config: str | Path | Mapping[str, Any], toggles: Mapping[str, Any] | None = None, rounds: int = 7
) -> dict[str, StepCost | str]:
    """What `imgrec cost` measures: by the name of a technique what it costs a step, or why that cannot be told.

    Args:
        config: paths of configs, or mappings as they hold them; later over earlier.
        toggles: dotted keys under ``model`` and the specs to put there; by default what the config names is left out,
            one technique at a time.
        rounds: how often each step is measured.

    Raises:
        UserError: the config or an argument cannot be, or there is nothing to leave out.

    Example::

        costs = imgrec.technique_costs("experiments/cifar10/fast.yaml", toggles={"model.neck": "fpn"})
        print(costs["neck fpn"].ratio)
    """
    from imgrec.engine.short_run import config_of, settled_engine

    given = list((toggles or {}).items())
    _check(DEFAULTS | {"rounds": rounds}, given)
    return step_costs(settled_engine(config_of(*config)), given, rounds)[1]


def step_costs(
    engine: Engine, toggles: list[tuple[str, Any]], rounds: int
) -> tuple[TrainingStep, dict[str, StepCost | str]]:
    """The step of an engine's config, and by the name of a technique what it costs, or why that cannot be told.

    The random generators of this process are afterwards as they were.

    Args:
        engine: see :func:`imgrec.engine.short_run.settled_engine`.
        toggles: dotted keys and the specs to put there; with none, the techniques that the config names.
        rounds: how often each step is measured.

    Raises:
        UserError: a step cannot be built, or the config names no technique.
    """
    from imgrec.engine.config import override
    from imgrec.engine.short_run import generators_kept
    from imgrec.studies.cost import compare_steps, numbered, spec_name, without_each

    own = engine.config["model"]["init_args"]
    leaner = without_each(own)
    if not toggles and not leaner:
        raise UserError("this config names no technique that could be left out: say one with --toggle.model.KEY SPEC")
    with generators_kept():
        batch = _batch(engine)
        base = _step(engine, own, batch)
        found: dict[str, StepCost | str] = {}
        for key, spec in toggles:
            changed = override(engine.config, key, spec)["model"]["init_args"]
            name = f"{key.removeprefix(_PLACE).rstrip('+')} {spec_name(spec)}"
            found[numbered(name, found)] = compare_steps(_step(engine, changed, batch), base, rounds)
        for name, less in {} if toggles else leaner.items():
            try:
                found[name] = compare_steps(base, _step(engine, less, batch), rounds)
            except UserError as error:  # a margin loss has to have its head
                found[name] = str(error)
    return base, found


def _batch(engine: Engine) -> tuple[Any, int]:
    """What the data says, and how many images there are in a batch."""
    from imgrec.types import DataFacts

    engine.data.prepare_data()
    engine.data.setup("fit")
    facts = getattr(engine.data, "facts", None)
    size = engine.config["data"]["init_args"].get("batch_size")
    if isinstance(facts, DataFacts) and size == "all":
        size = sum(facts.class_counts)
    if not isinstance(facts, DataFacts) or not isinstance(size, int):
        raise UserError(f"data: {engine.config['data']['class_path']} does not say what a batch is")
    return facts, size


def _step(engine: Engine, model: Mapping[str, Any], batch: tuple[Any, int]) -> TrainingStep:
    """The step of the engine's task with these arguments."""
    import pytorch_lightning as pl

    from imgrec.engine.instantiate import instantiate
    from imgrec.studies.cost import step_of
    from imgrec.tasks import BaseTask

    task: Any = instantiate({**engine.config["model"], "init_args": model}, pl.LightningModule, "model")
    if not isinstance(task, BaseTask):
        raise UserError(f"model: {type(task).__name__} is no BaseTask, whose step is known")
    device = engine.trainer.strategy.root_device
    return step_of(task, *batch, device, str(engine.trainer.precision))


def _check(given: Mapping[str, Any], toggles: list[tuple[str, Any]]) -> None:
    rounds = given["rounds"]
    if not isinstance(rounds, int) or isinstance(rounds, bool) or rounds < 1:
        raise UserError(f"--rounds: expected a number, 1 or more, got {rounds!r}")
    for key, _ in toggles:
        if not key.startswith(_PLACE) or key == _PLACE:
            raise UserError(
                f"toggle {key}: what is toggled stands under `model`, as in --toggle.model.neck fpn; anything else is "
                "no part of a training step"
            )


def _say(base: TrainingStep, found: Mapping[str, StepCost | str], csv_file: str | None) -> None:
    from imgrec.cli.output import console_for, print_table
    from imgrec.cli.written import write_table
    from imgrec.utils.formatting import format_size

    costs = {name: cost for name, cost in found.items() if not isinstance(cost, str)}
    print(
        f"\nthe step   {1000 * base.seconds():.0f} ms for {len(base.batch)} images, {format_size(base.memory)}, "
        f"{base.parameters:,} parameters, {base.macs / 1e6:,.1f} M MACs, {base.precision}\n"
    )
    columns = ("technique", "time", "memory", "parameters", "MACs")
    rows = [
        [
            name,
            f"{cost.ratio - 1:+.1%}",
            f"{cost.memory / 2**20:+,.1f} MiB",
            f"{cost.parameters:+,}",
            f"{cost.macs / 1e6:+,.1f} M",
        ]
        for name, cost in costs.items()
    ]
    if rows:
        print_table(console_for(10_000), columns, rows, left=("technique",))
        print()
    for name, why in found.items():
        if isinstance(why, str):
            print(f"{name}: cannot be left out ({why})")

    figures = [
        [name, f"{cost.ratio:.6g}", f"{cost.seconds:.6g}", cost.memory, cost.parameters, cost.macs]
        for name, cost in costs.items()
    ]
    write_table(csv_file, ["technique", "ratio", "seconds", "bytes", "parameters", "macs"], figures)
