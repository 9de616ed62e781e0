"""The short table that a command ends with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rich.table import Table

from imgrec.console import PlainConsole
from imgrec.runs.folder import RunFolder

_SHOWN = {
    "acc": "accuracy",
    "acc_top5": "top-5 accuracy",
    "precision_macro": "precision (macro)",
    "recall_macro": "recall (macro)",
    "f1_macro": "F1 (macro)",
    "auroc": "AUROC",
    "ece": "calibration error",
    "nll": "negative log-likelihood",
    "loss": "loss",
}


def print_results(results: Mapping[str, Mapping[str, float]], run: RunFolder | None, report: Path | None) -> None:
    """A row a figure, a column a split; then where everything is."""
    console = PlainConsole(soft_wrap=True)
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for split in results:
        table.add_column(split, justify="right")
    for name, said in _SHOWN.items():
        cells = [f"{figures[name]:.4f}" if name in figures else "" for figures in results.values()]
        if any(cells):
            table.add_row(said, *cells)
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
