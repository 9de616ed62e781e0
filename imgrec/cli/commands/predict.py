"""``imgrec predict``: predict the classes of images with a run or an export."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

from imgrec.cli.option_types import FileName, Number, yaml_value
from imgrec.cli.parser import Parser
from imgrec.engine.evaluation.predict_inputs import Inputs, find_images
from imgrec.errors import IncompleteError
from imgrec.trust import allow
from imgrec.utils.csv_files import rows_written
from imgrec.utils.paths import written_aside
from imgrec.utils.ranges import PositiveInt
from imgrec.utils.terminal import print, printable
from imgrec.utils.write_errors import WriteError

if TYPE_CHECKING:
    from imgrec.export import Prediction

    Write = Callable[[Prediction, Mapping[str, str]], None]

_PLAIN_PROGRESS_SECONDS = 5.0
_LISTED = 10
_EPILOG = """A PATH with the suffix .csv or .tsv is a table of images. Its column path, file or image, otherwise its
first column, contains paths relative to the folder of the table. Its other columns are copied to --out. A quantized
variant predicts with its export. RUN/model is its network in PyTorch. Exit status: 0, 2 for invalid input, 4 if some
images could not be read. The results of the other images are complete."""


def run(command: str, words: list[str]) -> int:
    """Print the top-k classes of every image, or write them as CSV or JSON lines."""
    parser = Parser(prog="imgrec predict", description="Predict the classes of images.", epilog=_EPILOG)
    parser.add_argument(
        "run", metavar="RUN", help="run folder, checkpoint, model folder, or export (its folder or its file)"
    )
    parser.add_argument(
        "paths", metavar="PATH", nargs="+", help="image files, folders, globs in quotes, and tables of paths (.csv)"
    )
    parser.add_argument("--top", type=Number(PositiveInt), default=3, metavar="K", help="number of classes per image")
    parser.add_argument(
        "--out",
        type=FileName(".csv", ".jsonl"),
        metavar="FILE",
        help="FILE.csv or FILE.jsonl to write instead of printing",
    )
    parser.add_argument("--batch_size", type=Number(PositiveInt), default=64, metavar="N", help="batch size")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    parser.add_argument(
        "--tta", type=yaml_value, metavar="VIEWS", help="views of test-time augmentation: hflip, '[hflip, five_crop]'"
    )
    parser.add_argument(
        "--tta_average",
        choices=("probabilities", "logits"),
        default="probabilities",
        help="average of the views",
    )
    arguments = parser.parse_args(words)
    inputs = find_images(arguments.paths)

    import imgrec

    predictor = imgrec.load(
        arguments.run,
        device=arguments.device,
        batch_size=arguments.batch_size,
        tta=allow(arguments.tta),
        tta_average=arguments.tta_average,
    )
    stream = with_progress(predictor.stream(row.path for row in inputs.rows), len(inputs.rows))
    failed: list[Prediction] = []
    try:
        with _writer(arguments.out, min(arguments.top, len(predictor.facts.class_names)), inputs.columns) as write:
            print(f"model      {arguments.run}: {predictor.backend.title}", file=sys.stderr)
            for row, prediction in zip(inputs.rows, stream, strict=True):
                write(prediction, row.cells)
                if prediction.error is not None:
                    failed.append(prediction)
    except WriteError as error:
        raise WriteError(f"--out {arguments.out}", error.strerror, error.errno) from error
    if arguments.out:
        print(f"{len(inputs.rows)} images -> {arguments.out}")
    _report(inputs, failed, arguments.out)
    return 0


def _report(inputs: Inputs, failed: Sequence[Prediction], out: str | None) -> None:
    """Print the number of skipped files, and raise an error if images could not be read.

    Raises:
        IncompleteError: If an image could not be read.
    """
    if inputs.skipped_text:
        print(f"skipped    {inputs.skipped_text}", file=sys.stderr)
    if not failed:
        return
    if out is not None:  # printed results name each of them already
        for prediction in failed[:_LISTED]:
            print(_line(prediction, 0), file=sys.stderr)
        if len(failed) > _LISTED:
            print(f"and {len(failed) - _LISTED} more, in the column error of {out}", file=sys.stderr)
    raise IncompleteError(
        f"{len(failed)} of {len(inputs.rows)} images could not be read. The results of the others are complete."
    )


def with_progress(predictions: Iterator[Prediction], total: int) -> Iterator[Prediction]:
    """Yield the predictions and show the progress: a bar on a terminal, otherwise a line every five seconds."""
    if sys.stderr.isatty():
        from rich.progress import track

        from imgrec.utils.console import PlainConsole

        yield from track(predictions, "predicting", total=total, console=PlainConsole(stderr=True), transient=True)
        return
    printed = time.monotonic()
    for done, prediction in enumerate(predictions, 1):
        yield prediction
        if time.monotonic() - printed > _PLAIN_PROGRESS_SECONDS:
            printed = time.monotonic()
            print(f"{done}/{total} images", file=sys.stderr, flush=True)


@contextmanager
def _writer(out: str | None, top: int, columns: Sequence[str]) -> Iterator[Write]:
    if out is None:
        yield lambda prediction, cells: print(_line(prediction, top))
        return
    names = _names(columns, top)
    if out.endswith(".csv"):
        with rows_written(out) as row:
            yield _csv_row(row, top, names)
        return
    with written_aside(out) as aside, aside.open("w", encoding="utf-8") as file:
        yield _json_line(file, top, names)


def _names(columns: Sequence[str], top: int) -> dict[str, str]:
    """Return the output names of further columns. A column with the name of a result column has a prefix."""
    taken = {"top", *_header(top)}
    return {column: f"input_{column}" if column in taken else column for column in columns}


def _header(top: int) -> list[str]:
    return ["path", *(f"{column}_{k}" for k in range(1, top + 1) for column in ("class", "probability")), "error"]


def _line(prediction: Prediction, top: int) -> str:
    path = printable(str(prediction.path), newlines=False)
    if prediction.error is not None:
        return f"{path}: cannot be read: {prediction.error}"
    pairs = list(zip(prediction.classes, prediction.probabilities, strict=True))[:top]
    return f"{path}: {', '.join(f'{name} {p:.4f}' for name, p in pairs)}"


def _json_line(file: IO[str], top: int, names: Mapping[str, str]) -> Write:
    def write(prediction: Prediction, cells: Mapping[str, str]) -> None:
        line: dict[str, Any] = {"path": str(prediction.path)}
        if prediction.error is not None:
            line["error"] = prediction.error
        else:
            pairs = list(zip(prediction.classes, prediction.probabilities, strict=True))[:top]
            line["top"] = [{"class": name, "probability": float(p)} for name, p in pairs]
        print(json.dumps(line | {names[column]: cell for column, cell in cells.items()}), file=file)

    return write


def _csv_row(row: Callable[[Iterable[Any]], None], top: int, names: Mapping[str, str]) -> Write:
    row([*_header(top), *names.values()])

    def write(prediction: Prediction, cells: Mapping[str, str]) -> None:
        further = [cells.get(column, "") for column in names]
        if prediction.error is not None:
            row([prediction.path, *[""] * (2 * top), prediction.error, *further])
            return
        pairs = list(zip(prediction.classes, prediction.probabilities, strict=True))[:top]
        found = [cell for name, p in pairs for cell in (name, repr(float(p)))]
        row([prediction.path, *found, "", *further])

    return write
