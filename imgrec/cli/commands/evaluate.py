"""``imgrec evaluate``: a trained model on any labelled set, as a whole."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from imgrec.cli.parser import Parser
from imgrec.engine.config import parse_value
from imgrec.errors import IncompleteError
from imgrec.utils.terminal import print

if TYPE_CHECKING:
    from imgrec.runs.evaluations import Evaluation

DESCRIPTION = """Evaluate a trained model on a labelled set: on everything in it, whatever splits it has. Classes are
matched by name. Metrics come with 95 % intervals. The results go to RUN/evaluations/NAME/, and the results of the run
itself stay as they are."""

EPILOG = """DATA is one of:
  a folder             class folders, or train/, val/ and test/ with class folders, or only some of them; or a folder
                       of parquet or tar files
  a file               .csv, .tsv, .parquet, .tar; or .yaml with a source, or a config, whose data.source is taken
  a source             digits; '{name: csv, file: labels.csv, label_column: kind}' (imgrec list sources)

exit status: 0; 4 if some images could not be read, after the results of all others are written; 2 for a mistake

  imgrec evaluate RUN field-images
  imgrec evaluate RUN may.csv --split test --name may --tta hflip
  imgrec evaluate model-folder field-images --out results
"""


def run(command: str, words: list[str]) -> int:
    """Evaluate, print the figures, and write them."""
    arguments = _parser().parse_args(words)

    from imgrec.engine.evaluate import evaluate_run, print_progress

    found = evaluate_run(
        arguments.run,
        arguments.data,
        name=arguments.name,
        split=arguments.split,
        tta=None if arguments.tta is None else parse_value(arguments.tta),
        tta_average=arguments.tta_average,
        device=arguments.device,
        batch_size=arguments.batch_size,
        num_workers=arguments.num_workers,
        skip_unknown=arguments.skip_unknown,
        overwrite=arguments.overwrite,
        out=arguments.out,
        say=print_progress,
        show=lambda evaluation: _print(evaluation, arguments.per_class),
    )
    if found.folder is not None:
        print(f"\nwritten    {found.folder}\nreport     {found.folder / 'report.html'}")
    if found.skipped:
        first, reason = next(iter(found.skipped.items()))
        total = len(found.predictions) + len(found.skipped)
        raise IncompleteError(
            f"{len(found.skipped):,} of {total:,} images cannot be read, and are in no figure: {first} ({reason})"
        )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="imgrec evaluate",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", metavar="RUN", help="a run folder; or a checkpoint, a model folder or an export")
    parser.add_argument("data", metavar="DATA", help="the labelled set, see below")
    parser.add_argument("--name", help="name of the evaluation (default: the name of DATA, with --split and --tta)")
    parser.add_argument("--split", metavar="WORD", help="only the images that DATA itself has in train, val or test")
    parser.add_argument("--per-class", action="store_true", help="print recall and number of images of each class")
    parser.add_argument(
        "--skip-unknown", action="store_true", help="leave images of unknown classes out, and count them"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an evaluation of that name that differs")
    parser.add_argument("--out", metavar="FOLDER", help="write there instead; needed to write what is no run folder")
    parser.add_argument("--tta", metavar="VIEWS", help="use further views of each image: hflip, '[hflip, five_crop]'")
    parser.add_argument(
        "--tta-average",
        "--tta_average",
        metavar="WHAT",
        default="probabilities",
        help="probabilities (default), logits",
    )
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:1, mps")
    parser.add_argument("--batch-size", "--batch_size", type=int, default=64, metavar="N", help="default: 64")
    parser.add_argument("--num-workers", "--num_workers", type=int, metavar="N", help="processes that read images")
    return parser


def _print(found: Evaluation, per_class: bool) -> None:
    from rich.table import Table

    from imgrec.metrics.names import long_title_of, metric_text, ordered
    from imgrec.reports.evaluation_page import evaluation_notes
    from imgrec.runs.evaluations import interval_text
    from imgrec.utils.console import PlainConsole

    console = PlainConsole(soft_wrap=True)
    counts = found.class_counts()
    there = sum(count > 0 for count in counts.values())
    print(f"model      {found.model[0]}: {found.model[1]}")
    print(f"data       {len(found.predictions):,} images of {there} of {len(counts)} classes")
    for note in evaluation_notes(found):
        print(f"note       {note}")
    table = Table(box=None, pad_edge=False)
    for column in ("", "value", "95 % interval"):
        table.add_column(column, justify="right" if column else "left")
    for name in ordered(found.metrics):
        cells = metric_text(name, found.metrics[name]), interval_text(name, found.intervals.get(name))
        table.add_row(long_title_of(name), *cells)
    console.print()
    console.print(table)
    if per_class:
        console.print()
        console.print(_class_table(found))


def _class_table(found: Evaluation) -> object:
    from rich.table import Table

    from imgrec.metrics.names import metric_text
    from imgrec.metrics.per_image import per_image
    from imgrec.metrics.scores import per_class

    said = found.predictions
    figures = per_class(per_image(said.logits, said.targets))
    table = Table(box=None, pad_edge=False)
    for column in ("class", "images", "precision", "recall", "F1"):
        table.add_column(column, justify="left" if column == "class" else "right")
    for i, name in enumerate(said.class_names):
        values = (figures.precision[i], figures.recall[i], figures.f1[i])
        table.add_row(name, f"{figures.support[i]:,}", *(metric_text("", float(value)) for value in values))
    return table
