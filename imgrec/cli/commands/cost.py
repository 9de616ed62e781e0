"""``imgrec cost``: what each technique costs a training step, in time, memory, parameters and multiplications."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from imgrec.cli.options import parse
from imgrec.utils.terminal import print

if TYPE_CHECKING:
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


def run(command: str, words: list[str]) -> int:
    """Measure, and print a table."""
    arguments = parse(words)
    if arguments.help:
        print(HELP, end="")
        return 0
    given = DEFAULTS | {key: value for key, value in arguments.overrides if key in DEFAULTS}
    toggled = {key: key.partition(".")[2] for key, _ in arguments.overrides if key.partition(".")[0] == "toggle"}
    toggles = [(toggled[key], value) for key, value in arguments.overrides if key in toggled]

    from imgrec.cli.short_run import build_short_run
    from imgrec.studies.technique_costs import check_toggles, step_costs

    check_toggles(given["rounds"], toggles)
    engine = build_short_run(command, arguments, {*DEFAULTS, *toggled})
    base, found = step_costs(engine, toggles, given["rounds"])
    _say(base, found, given["csv"])
    return 0


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
