"""``imgrec predict``: from a run and some images to class names."""

from __future__ import annotations

import argparse
import csv
import glob
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from imgrec.cli.config import parse_value
from imgrec.errors import UserError
from imgrec.files import written_aside

if TYPE_CHECKING:
    from imgrec.export import Prediction

_PLAIN_PROGRESS_SECONDS = 5.0


def run(command: str, words: list[str]) -> int:
    """Print the top-k of every image; write them as CSV or JSON lines on request."""
    parser = argparse.ArgumentParser(prog="imgrec predict", description="Name the classes of images.")
    parser.add_argument("run", metavar="RUN", help="a run folder, a checkpoint or a model folder")
    parser.add_argument("paths", metavar="PATH", nargs="+", help="image files, folders, and globs in quotes")
    parser.add_argument("--top", type=int, default=3, metavar="K", help="how many classes an image (default: 3)")
    parser.add_argument("--out", metavar="FILE", help="write there instead of printing: FILE.csv or FILE.jsonl")
    parser.add_argument("--batch_size", type=int, default=64, metavar="N")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    parser.add_argument("--tta", metavar="VIEWS", help="look at further views, too: hflip; '[hflip, five_crop]'")
    parser.add_argument(
        "--tta_average", metavar="WHAT", default="probabilities", help="probabilities (default), logits"
    )
    arguments = parser.parse_args(words)
    if arguments.top < 1 or arguments.batch_size < 1:
        raise UserError("--top and --batch_size are at least 1")
    if arguments.out and Path(arguments.out).suffix not in (".csv", ".jsonl"):
        raise UserError(f"--out {arguments.out}: expected a name that ends in .csv or .jsonl")
    paths = find_images(arguments.paths)

    import imgrec

    predictor = imgrec.load(
        arguments.run,
        device=arguments.device,
        batch_size=arguments.batch_size,
        tta=None if arguments.tta is None else parse_value(arguments.tta),
        tta_average=arguments.tta_average,
    )
    stream = with_progress(predictor.stream(paths), len(paths))
    failed = 0
    try:
        with _writer(arguments.out, min(arguments.top, len(predictor.facts.class_names))) as write:
            for prediction in stream:
                write(prediction)
                failed += prediction.error is not None
    except OSError as error:
        if arguments.out is None:  # `imgrec predict ... | head`
            raise
        raise UserError(f"--out {arguments.out}: cannot be written ({error.strerror or error})") from error
    if arguments.out:
        print(f"{len(paths)} images -> {arguments.out}")
    if failed:
        print(f"{failed} of {len(paths)} could not be read", file=sys.stderr)
    return 1 if failed == len(paths) else 0


def find_images(given: Iterable[str]) -> list[Path]:
    """The image files that files, folders (and everything below them) and globs name, each once, in order.

    Raises:
        UserError: one of them names nothing.
    """
    from imgrec.data.decode import IMAGE_SUFFIXES

    found: dict[Path, None] = {}
    for word in given:
        path = Path(word).expanduser()
        if path.is_dir():
            names = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
            if not names:
                raise UserError(f"{word}: no image in this folder")
        elif path.exists():
            names = [path]
        else:
            names = [Path(p) for p in sorted(glob.glob(word, recursive=True)) if Path(p).is_file()]  # noqa: PTH207
            if not names:
                raise UserError(f"{word}: no such file, folder or glob with a match")
        found |= dict.fromkeys(names)
    return list(found)


def with_progress(predictions: Iterator[Prediction], total: int) -> Iterator[Prediction]:
    """The same, while a bar moves on a terminal; elsewhere a line every five seconds."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import track

        yield from track(predictions, "predicting", total=total, console=Console(stderr=True), transient=True)
        return
    said = time.monotonic()
    for done, prediction in enumerate(predictions, 1):
        yield prediction
        if time.monotonic() - said > _PLAIN_PROGRESS_SECONDS:
            said = time.monotonic()
            print(f"{done}/{total} images", file=sys.stderr, flush=True)


@contextmanager
def _writer(out: str | None, top: int) -> Iterator[Callable[[Prediction], None]]:
    if out is None:
        yield lambda prediction: print(_line(prediction, top))
        return
    with written_aside(out) as aside, aside.open("w", newline="", encoding="utf-8") as file:
        yield _csv_row(file, top) if out.endswith(".csv") else lambda p: print(json.dumps(_plain(p, top)), file=file)


def _line(prediction: Prediction, top: int) -> str:
    if prediction.error is not None:
        return f"{prediction.path}: cannot be read: {prediction.error}"
    pairs = list(zip(prediction.classes, prediction.probabilities, strict=True))[:top]
    return f"{prediction.path}: {', '.join(f'{name} {p:.4f}' for name, p in pairs)}"


def _plain(prediction: Prediction, top: int) -> dict[str, Any]:
    if prediction.error is not None:
        return {"path": str(prediction.path), "error": prediction.error}
    pairs = list(zip(prediction.classes, prediction.probabilities, strict=True))[:top]
    return {"path": str(prediction.path), "top": [{"class": name, "probability": float(p)} for name, p in pairs]}


def _csv_row(file: IO[str], top: int) -> Callable[[Prediction], None]:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(
        ["path", *(f"{column}_{k}" for k in range(1, top + 1) for column in ("class", "probability")), "error"]
    )

    def write(prediction: Prediction) -> None:
        if prediction.error is not None:
            writer.writerow([prediction.path, *[""] * (2 * top), prediction.error])
            return
        pairs = list(zip(prediction.classes, prediction.probabilities, strict=True))[:top]
        writer.writerow([prediction.path, *(cell for name, p in pairs for cell in (name, repr(float(p)))), ""])

    return write
