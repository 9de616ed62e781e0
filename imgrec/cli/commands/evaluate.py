"""``imgrec evaluate``: evaluate a trained model on all of a labelled set."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from imgrec.cli.option_types import Number, yaml_value
from imgrec.cli.parser import Parser
from imgrec.errors import IncompleteError
from imgrec.utils.ranges import NonNegativeInt, PositiveInt
from imgrec.utils.terminal import print

if TYPE_CHECKING:
    from imgrec.runs.evaluations import Evaluation

DESCRIPTION = """Evaluate a trained model on all images of a labelled set, regardless of its splits. Classes are matched
by name. Metrics have 95 % intervals. The results are written to RUN/evaluations/NAME/. The metrics of the run itself
are unchanged."""

EPILOG = """DATA is one of:
  folder               class folders, split folders with class folders, parquet files or tar files
  file                 .csv, .tsv, .parquet, .tar, or .yaml with a source or with a config, whose data.source is used
  source               digits, or '{name: csv, file: labels.csv, label_column: kind}' (imgrec list sources)

exit status: 0, 2 for invalid input, 4 if some images could not be read. The results of the others are written first

  imgrec evaluate RUN field-images
  imgrec evaluate RUN may.csv --split test --name may --tta hflip
  imgrec evaluate model-folder field-images --out results
"""


def run(command: str, words: list[str]) -> int:
    """Evaluate a model, and print and write its metrics."""
    arguments = _parser().parse_args(words)

    from imgrec.engine.evaluation.evaluate import evaluate

    found = evaluate(
        arguments.run,
        arguments.data,
        name=arguments.name,
        split=arguments.split,
        tta=arguments.tta,
        tta_average=arguments.tta_average,
        device=arguments.device,
        batch_size=arguments.batch_size,
        num_workers=arguments.num_workers,
        skip_unknown=arguments.skip_unknown,
        overwrite=arguments.overwrite,
        out=arguments.out,
        say=lambda text: print(text, file=sys.stderr, flush=True),
        show=lambda evaluation: _print(evaluation, arguments.per_class),
    )
    if found.folder is not None:
        print(f"\nwritten    {found.folder}\nreport     {found.folder / 'report.html'}")
    if found.skipped:
        first, reason = next(iter(found.skipped.items()))
        total = len(found.predictions) + len(found.skipped)
        raise IncompleteError(
            f"{len(found.skipped):,} of {total:,} images cannot be read and are not in the metrics: {first} ({reason})"
        )
    return 0


def _parser() -> Parser:
    parser = Parser(
        prog="imgrec evaluate",
        description=DESCRIPTION,
        epilog=EPILOG,
    )
    parser.add_argument("run", metavar="RUN", help="run folder, checkpoint, model folder or export")
    parser.add_argument("data", metavar="DATA", help="labelled set, see below")
    parser.add_argument("--name", help="name of the evaluation (default: the name of DATA, with --split and --tta)")
    parser.add_argument("--split", metavar="WORD", help="only the images of one split of DATA: train, val or test")
    parser.add_argument("--per-class", action="store_true", help="print recall and number of images of each class")
    parser.add_argument(
        "--skip-unknown", action="store_true", help="skip images of unknown classes, and print their number"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a different evaluation of that name")
    parser.add_argument("--out", metavar="FOLDER", help="folder to write to. Required unless RUN is a run folder")
    parser.add_argument(
        "--tta", type=yaml_value, metavar="VIEWS", help="views of test-time augmentation: hflip, '[hflip, five_crop]'"
    )
    parser.add_argument(
        "--tta-average",
        "--tta_average",
        choices=("probabilities", "logits"),
        default="probabilities",
        help="average of the views",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    parser.add_argument(
        "--batch-size", "--batch_size", type=Number(PositiveInt), default=64, metavar="N", help="batch size"
    )
    parser.add_argument(
        "--num-workers",
        "--num_workers",
        type=Number(NonNegativeInt),
        metavar="N",
        help="number of processes that read images",
    )
    return parser


def _print(found: Evaluation, per_class: bool) -> None:
    from rich.table import Table

    from imgrec.metrics.names import label_of, metric_text, ordered
    from imgrec.reports.evaluation_page import evaluation_notes
    from imgrec.runs.evaluations import interval_text
    from imgrec.utils.console import PlainConsole

    console = PlainConsole(soft_wrap=True)
    counts = found.class_counts()
    num_present = sum(count > 0 for count in counts.values())
    print(f"model      {found.model[0]}: {found.model[1]}")
    print(f"data       {len(found.predictions):,} images of {num_present} of {len(counts)} classes")
    for note in evaluation_notes(found):
        print(f"note       {note}")
    table = Table(box=None, pad_edge=False)
    for column in ("", "value", "95 % interval"):
        table.add_column(column, justify="right" if column else "left")
    for name in ordered(found.metrics):
        cells = metric_text(name, found.metrics[name]), interval_text(name, found.intervals.get(name))
        table.add_row(label_of(name), *cells)
    console.print()
    console.print(table)
    if per_class:
        console.print()
        console.print(_class_table(found))


def _class_table(found: Evaluation) -> object:
    from rich.table import Table

    from imgrec.metrics.classification import per_class
    from imgrec.metrics.names import metric_text
    from imgrec.metrics.per_image import per_image

    predictions = found.predictions
    images = per_image(predictions.logits, predictions.targets)
    figures = per_class(images.predicted, images.targets, images.num_classes)
    table = Table(box=None, pad_edge=False)
    for column in ("class", "images", "precision", "recall", "F1"):
        table.add_column(column, justify="left" if column == "class" else "right")
    for i, name in enumerate(predictions.class_names):
        values = (figures.precision[i], figures.recall[i], figures.f1[i])
        table.add_row(name, f"{figures.support[i]:,}", *(metric_text("", float(value)) for value in values))
    return table
