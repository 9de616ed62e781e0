"""Metrics that a command prints at its end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from imgrec.metrics.names import label_of, ordered
from imgrec.runs.folder import RunFolder
from imgrec.utils.console import PlainConsole

if TYPE_CHECKING:
    from imgrec.engine.training import TrainingResult


def print_results(results: Mapping[str, Mapping[str, float]], run: RunFolder | None, report: Path | None) -> None:
    """Print one row per metric and one column per split, then the paths of the run and its report."""
    console = PlainConsole(soft_wrap=True)
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for split in results:
        table.add_column(split, justify="right")
    for name in ordered(name for figures in results.values() for name in figures):
        cells = [f"{figures[name]:.4f}" if name in figures else "" for figures in results.values()]
        table.add_row(label_of(name), *cells)
    console.print()
    console.print(table)
    if run is not None:
        console.print()
        summary = run.summary
        skipped = summary.get("skipped_images") or {}
        if skipped:
            console.print(f"skipped    {len(skipped)} unreadable image(s), named in summary.json")
        if "train_seconds" in summary and report is not None:
            console.print(f"training   {summary['train_seconds']:.1f} s, {summary.get('parameters', 0):,} parameters")
        console.print(f"run        {run.path}")
    if report is not None:
        console.print(f"report     {report}")


def print_training(result: TrainingResult) -> None:
    """Print the metrics of a training, and raise the first failure to write a result.

    Raises:
        ResourceError: If a result could not be written.
    """
    if result.metrics:
        print_results(result.metrics, result.run, result.report)
    if result.error is not None:
        raise result.error
