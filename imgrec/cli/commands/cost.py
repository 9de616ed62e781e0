"""``imgrec cost``: measure the cost of each technique in a training step: time, memory, parameters and MACs."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING

from imgrec.cli.option_types import Number
from imgrec.cli.parser import CONFIG_KEYS, Parser
from imgrec.utils.ranges import PositiveInt
from imgrec.utils.terminal import print

if TYPE_CHECKING:
    from imgrec.studies.cost import StepCost, TrainingStep

DESCRIPTION = """Measure the cost of each technique: a training step with it and the same step without it, in turn.
Without --toggle, each technique of the config is measured: loss (against cross-entropy), regularizers, edits, neck,
pooling, head, and an optimizer that wraps another optimizer."""

EPILOG = """The step has forward pass, loss, penalties, backward pass and optimizer. The batch is noise with the size of
the data, in the precision and memory format of the config. Callbacks, loading and augmentation are not included.
Time is the median ratio of two steps, in CPU seconds, or in wall-clock time on a GPU. Memory is the largest total
size of all tensors in a step. Parameters are trainable parameters. MACs are those of one image."""


def run(command: str, words: list[str]) -> int:
    """Measure, and print a table."""
    given = _parser().parse_args(words)
    toggles = [(key.partition(".")[2], value) for key, value in given.overrides if key.partition(".")[0] == "toggle"]
    overrides = [(key, value) for key, value in given.overrides if key.partition(".")[0] != "toggle"]

    from imgrec.cli.short_run import build_short_run
    from imgrec.studies.technique_costs import check_toggles, step_costs

    check_toggles(toggles)
    experiment = build_short_run(command, given.files, overrides)
    base, found = step_costs(experiment, toggles, given.rounds)
    _print(base, found, given.csv)
    return 0


def _parser() -> Parser:
    parser = Parser(prog="imgrec cost", description=DESCRIPTION, epilog=EPILOG)
    parser.accept_config(keys=(*CONFIG_KEYS, "toggle"))
    parser.add_argument(
        "--toggle.KEY", dest=argparse.SUPPRESS, metavar="SPEC",
        help="spec to measure instead of that of the config (--toggle.model.neck fpn), or in addition to it "
        "(--toggle.model.regularizers+ '{name: l2, weight: 1e-4}'). May be given several times",
    )  # fmt: skip
    parser.add_argument(
        "--rounds", type=Number(PositiveInt), default=7, metavar="N", help="number of measurements of each step"
    )
    parser.add_argument("--csv", metavar="FILE", help="also write the figures as CSV")
    return parser


def _print(base: TrainingStep, found: Mapping[str, StepCost | str], csv_file: str | None) -> None:
    from imgrec.cli.output import console_for, print_table, write_table
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
