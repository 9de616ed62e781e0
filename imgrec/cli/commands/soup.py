"""``imgrec soup``: the mean of the weights of trained networks, as a run folder of its own."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from imgrec.cli.parser import Parser
from imgrec.utils.terminal import print

if TYPE_CHECKING:
    from imgrec.runs.folder import RunFolder

DESCRIPTION = """Average the weights of networks that were fine-tuned from the same start: several seeds, or several
recipes. The soup is one network, as fast as each of them; it is a run folder beside the best one of them,
runs/<experiment>/soups/<method>/<id>, with its own predictions, model folder and report, and names all of them."""

EPILOG = """Which networks a greedy soup has is decided on the validation images, never on the test images. All have
one architecture, the same classes and preprocessing, and none was trained on images that another is judged on.
  imgrec soup RUN RUN RUN                         the greedy soup of three runs
  imgrec soup runs/my/experiment --method uniform all finished runs of an experiment
  imgrec soup RUN/checkpoints/best.ckpt RUN/checkpoints/last.ckpt
"""


def run(command: str, words: list[str]) -> int:
    """Make the soup, and print it beside its ingredients."""
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


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="imgrec soup",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run folder, a checkpoint in one, or a folder of runs")
    parser.add_argument(
        "--method", choices=("greedy", "uniform"), default="greedy", help="add networks as long as validation accuracy "
        "does not fall (default), or take all"
    )  # fmt: skip
    parser.add_argument(
        "--batch-norm", type=int, default=1024, metavar="N", help="training images that the statistics of batch norms "
        "are estimated on anew (default: 1024); 0 averages them as the weights"
    )  # fmt: skip
    parser.add_argument("--device", default="auto", help="auto (default), cpu or cuda")
    return parser
