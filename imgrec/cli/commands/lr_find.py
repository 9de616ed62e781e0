"""``imgrec lr-find``: find a learning rate with the range test, and plot the loss."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Gt

from imgrec.cli.option_types import PICTURES, FileName, Number
from imgrec.cli.parser import Parser
from imgrec.errors import UserError
from imgrec.utils.ranges import Finite, PositiveFloat
from imgrec.utils.terminal import print

if TYPE_CHECKING:
    from imgrec.optim.lr_range_test import RangeTest

DESCRIPTION = """Find a learning rate with the range test: train a copy for a few steps with an increasing learning
rate, until the loss diverges. The training is the one that `imgrec fit` would start, with the same images, batches,
accumulation, precision, losses and regularizers. It has no schedule, no validation, and no callback that averages,
prunes, stops or writes. The command writes only the figure and a table."""

EPILOG = """The suggested rate is the peak rate of a run: the rate of `model.optimizer`, which a schedule multiplies."""

_RULES = ("steepest", "valley", "minimum")


def run(command: str, words: list[str]) -> int:
    """Run the test, write its figure and its table, and print the suggested rate."""
    given = _parser().parse_args(words)

    from imgrec.cli.short_run import build_short_run
    from imgrec.engine.tuning.lr_find import check_range, configured_rate, range_test

    check_range(given.steps, given.low, given.high, given.stop_at)
    experiment = build_short_run(command, given.files, given.overrides)
    picture = Path(given.out)
    place, _ = configured_rate(experiment)
    found = range_test(experiment, given.steps, given.low, given.high, given.stop_at)
    status = _print(found, given.rule, picture, place)
    _write(found, given.rule, picture, place)
    return status


def _parser() -> Parser:
    parser = Parser(prog="imgrec lr-find", description=DESCRIPTION, epilog=EPILOG)
    parser.accept_config()
    parser.add_argument(
        "--steps", type=Number(Annotated[int, Ge(10)]), default=100, metavar="N", help="number of optimizer steps"
    )
    parser.add_argument("--low", type=Number(PositiveFloat), default=1e-6, metavar="LR", help="rate of the first step")
    parser.add_argument("--high", type=Number(PositiveFloat), default=10.0, metavar="LR", help="rate of the last step")
    parser.add_argument("--rule", choices=_RULES, default="steepest", help="rule of the suggested rate")
    parser.add_argument(
        "--stop-at", type=Number(Annotated[float, Gt(1), Finite]), default=4.0, metavar="F",
        help="stop when the loss is F times the minimum of its running mean",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=FileName(*PICTURES), default="lr-find.png", metavar="FILE",
        help="figure: .png, .jpg, .pdf, .svg. A .csv file of the same name contains rates and losses",
    )  # fmt: skip
    return parser


def _write(found: RangeTest, rule: str, picture: Path, place: str) -> None:
    """Write the figure and the table."""
    from imgrec.cli.output import write_file, write_table
    from imgrec.reports.curves import lr_range_figure
    from imgrec.reports.images import save_figure

    tried = zip(found.rates, found.losses, found.smoothed.tolist(), strict=True)
    rows = ([i, f"{rate:.8g}", f"{loss:.8g}", f"{mean:.8g}"] for i, (rate, loss, mean) in enumerate(tried))
    write_table(str(picture.with_suffix(".csv")), ["step", "learning_rate", "loss", "smoothed"], rows)
    write_file(str(picture), lambda path: save_figure(lr_range_figure(found, rule, place), path))


def _print(found: RangeTest, rule: str, picture: Path, place: str) -> int:
    from imgrec.reports.curves import lr_range_text

    print("\n".join(["", *lr_range_text(found, rule), ""]))
    end = "the loss diverged" if found.diverged else "all steps"
    print(f"tried      {len(found.losses)} learning rates from {found.rates[0]:.2g} to {found.rates[-1]:.2g}: {end}")
    try:
        suggested = found.suggestions()
    except UserError as error:
        print(f"suggested  nothing: {error}")
        return 3
    others = ", ".join(f"{name} {rate:.2g}" for name, rate in suggested.items() if name != rule)
    print(f"suggested  --{place} {suggested[rule]:.2g}   ({rule}; {others})")
    return 0
