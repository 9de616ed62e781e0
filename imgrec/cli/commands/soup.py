"""``imgrec soup``: average the weights of trained models into a new run folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgrec.cli.option_types import Number
from imgrec.cli.parser import Parser
from imgrec.utils.ranges import NonNegativeInt
from imgrec.utils.terminal import print

if TYPE_CHECKING:
    from imgrec.runs.folder import RunFolder

DESCRIPTION = """Average the weights of models that were fine-tuned from the same weights, with several seeds or
several recipes. The soup is one model, as fast as each of them. It is a run folder,
runs/<experiment>/soups/<method>/<id>, with its own predictions, model folder and report, and records its candidates."""

EPILOG = """A greedy soup is selected on the validation images, never on the test images. All models must have one
architecture, the same classes and the same preprocessing. No model may be trained on validation images of another.

  imgrec soup RUN RUN RUN                         the greedy soup of three runs
  imgrec soup runs/my/experiment --method uniform all finished runs of an experiment
  imgrec soup RUN/checkpoints/best.ckpt RUN/checkpoints/last.ckpt
"""


def run(command: str, words: list[str]) -> int:
    """Make the soup, and print it with its candidates."""
    arguments = _parser().parse_args(words)
    from imgrec.studies.soup.run import make_soup

    made = make_soup(arguments.runs, arguments.method, arguments.batch_norm, arguments.device)
    _print(made)
    return 0


def _print(made: RunFolder) -> None:
    from imgrec.cli.output import console_for, print_table
    from imgrec.reports.soup_section import soup_notes, soup_table

    columns, rows = soup_table(made)
    print()
    print_table(console_for(10_000), columns, rows, left={columns[0]}, order=columns)
    print()
    for note in soup_notes(made):
        print(note)
    print(f"\nrun        {made.path}\nreport     {made.report}")


def _parser() -> Parser:
    parser = Parser(prog="imgrec soup", description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run folder, a checkpoint in one, or a folder of runs")
    parser.add_argument(
        "--method", choices=("greedy", "uniform"), default="greedy", help="greedy: add models as long as validation "
        "accuracy does not fall. uniform: average all"
    )  # fmt: skip
    parser.add_argument(
        "--batch-norm", type=Number(NonNegativeInt), default=1024, metavar="N", help="number of training images for "
        "new batch-norm statistics. 0 averages the statistics of the models"
    )  # fmt: skip
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    return parser
