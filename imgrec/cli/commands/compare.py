"""``imgrec compare``: compare runs in the terminal and on a page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgrec.cli.output import write_files
from imgrec.cli.parser import Parser
from imgrec.errors import UserError
from imgrec.utils.terminal import print

if TYPE_CHECKING:
    from rich.console import Console

    from imgrec.compare.comparison import Comparison
    from imgrec.compare.groups import Group

_BARS = "▁▂▃▄▅▆▇█"
_SPARK = 24  # characters
_PAIRS = 15
_SENTENCES = 6


def run(command: str, words: list[str]) -> int:
    """Print the comparison, and write the requested files."""
    parser = Parser(
        prog="imgrec compare",
        description="Compare the configs, curves and accuracies of runs. Paired tests on predictions of the same "
        "images show if the accuracies differ significantly.",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders, or folders that contain finished runs")
    parser.add_argument(
        "--group-by",
        default="auto",
        metavar="KEY",
        help="none, experiment, a column (loss/name), or the prefix of columns (data/sampler). auto "
        "groups runs of one experiment that differ only in the seed",
    )
    parser.add_argument(
        "--split", default="test", help="split of the predictions: test, val, or evaluations/NAME (imgrec evaluate)"
    )
    parser.add_argument("--shared", action="store_true", help="use only the images that all runs have predictions of")
    parser.add_argument(
        "--out",
        metavar="FILE.html",
        help="write a page: figures, tables, images that the runs classify differently",
    )
    parser.add_argument("--json", metavar="FILE", help="write everything as JSON")
    parser.add_argument("--markdown", metavar="FILE", help="write the tables as Markdown")
    parser.add_argument("--no-images", action="store_true", help="write the page without thumbnails. No data is read")
    arguments = parser.parse_args(words)

    from imgrec.compare.comparison import compare_runs

    comparison = compare_runs(
        arguments.runs, group_by=arguments.group_by, split=arguments.split, shared=arguments.shared
    )
    _print(comparison)
    write_files(
        [
            (arguments.out, lambda path: _write_page(comparison, path, not arguments.no_images)),
            (arguments.json, lambda path: _write_json(comparison, path)),
            (arguments.markdown, lambda path: _write_markdown(comparison, path)),
        ]
    )
    return 0


def _print(comparison: Comparison) -> None:
    from imgrec.cli.output import console_for, print_table
    from imgrec.compare.align import split_title
    from imgrec.compare.text import group_cells, group_columns, shared_custom_metrics
    from imgrec.metrics.names import title_of

    console = console_for(160)
    split = split_title(comparison.split)
    print(f"{len(comparison.runs)} runs on {len(comparison.images):,} {split} images\n")
    custom, columns = shared_custom_metrics(comparison.groups), group_columns(comparison.groups)
    titles = list(map(title_of, custom))
    rows = [[*group_cells(group, custom), _spark(group)] for group in comparison.groups]
    order = ["Accuracy", "± / interval", *titles, "Runs", "Training", "NLL", "ECE", "val/acc"]
    print_table(console, [*columns, "val/acc"], rows, left=("Group", "val/acc"), order=order)
    if comparison.differences:
        print()
        names = ["differs", *(group.name for group in comparison.groups)]
        rows = [[name, *cells] for name, cells in comparison.differences.items()]
        print_table(console, names, rows, left=names, whole=True)
    if comparison.pairs:
        print()
        _print_pairs(comparison, console)
    for note in comparison.notes:
        print(f"note: {note}")


def _print_pairs(comparison: Comparison, console: Console) -> None:
    from imgrec.cli.output import print_table
    from imgrec.compare.text import PAIR_COLUMNS, pair_cells

    shown = sorted(comparison.pairs, key=lambda pair: pair.p)
    pairs = [pair for pair in comparison.pairs if pair in shown[:_PAIRS]]
    order = ["Second", "Difference", "95 % interval", "Holm", "Verdict", "p"]
    print_table(console, PAIR_COLUMNS, list(map(pair_cells, pairs)), left=("First", "Second", "Verdict"), order=order)
    if more := len(comparison.pairs) - len(pairs):
        print(f"and {more} more pairs with larger p-values, see --json, --markdown and --out")
    print()
    for pair in shown[:_SENTENCES]:
        print(pair.sentence)


def _spark(group: Group) -> str:
    """Return the mean validation accuracy over the epochs as one line of text."""
    import numpy as np

    from imgrec.compare.figures import mean_curve

    curve = mean_curve(group, ["val/acc"])
    if curve is None or not np.isfinite(curve[1]).any():
        return ""
    values = np.nan_to_num(curve[1], nan=float(np.nanmin(curve[1])))
    positions = np.linspace(0, len(values) - 1, min(_SPARK, len(values))).round().astype(int)
    low, high = values.min(), values.max()
    heights = (values[positions] - low) / ((high - low) or 1.0) * (len(_BARS) - 1)
    return "".join(_BARS[round(float(height))] for height in heights)


def _write_page(comparison: Comparison, path: Path, with_images: bool) -> None:
    from imgrec.compare.html import write_comparison

    images = None
    if with_images and comparison.split not in ("val", "test"):
        print("no thumbnails: the images of an evaluation are not images of the run")
    elif with_images:
        from imgrec.runs.data import load_run_data, make_image_loader

        try:
            data: Any = load_run_data(comparison.runs[0].run)
            images = make_image_loader(data) if hasattr(data, "load_images") else None
        except UserError as error:
            print(f"no thumbnails: {error}")
    write_comparison(comparison, path, images)


def _write_json(comparison: Comparison, path: Path) -> None:
    from imgrec.compare.text import to_dict
    from imgrec.runs.summary import write_json

    write_json(path, to_dict(comparison))


def _write_markdown(comparison: Comparison, path: Path) -> None:
    from imgrec.compare.text import to_markdown
    from imgrec.utils.paths import write_text

    write_text(path, to_markdown(comparison))
