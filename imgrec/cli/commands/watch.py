"""``imgrec watch``: show a running training in the terminal, read from its metrics.csv."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from imgrec.cli.option_types import Number
from imgrec.cli.parser import Parser
from imgrec.utils.ranges import PositiveFloat
from imgrec.utils.terminal import print

if TYPE_CHECKING:
    from rich.text import Text

    from imgrec.runs.live import LiveCurve, LiveRun

PANELS = (("loss", "train/loss", "val/loss"), ("accuracy", "train/acc", "val/acc"))
_HEIGHT = 8  # lines of a plot
_WIDE = 100  # minimum width of two plots side by side, in characters
_PIPED = 100  # characters per line without a terminal
_BAR = 30
_SILENT = 60.0
"""Seconds without an update after which the process may have been killed."""

DESCRIPTION = """Show a running training in the terminal: curves, rates, remaining time and best metrics. It reads
metrics.csv and config.yaml of the run folder until the run ends, and writes nothing. The run may be on another
machine with a shared disk. Ctrl-C stops watching. It does not stop the training."""


def run(command: str, words: list[str]) -> int:
    """Show one frame, or frames until the run ends."""
    parser = Parser(prog="imgrec watch", description=DESCRIPTION)
    parser.add_argument("run", nargs="?", default="runs", help="a run folder, or a folder: its newest run")
    parser.add_argument("--once", action="store_true", help="print the present state, and exit")
    parser.add_argument(
        "--interval", type=Number(PositiveFloat), default=2.0, metavar="SECONDS", help="time between two updates"
    )
    arguments = parser.parse_args(words)
    place = Path(arguments.run).expanduser()
    try:
        return _once(place) if arguments.once else _follow(place, arguments.interval)
    except KeyboardInterrupt:
        return 0


def newest_run(place: Path) -> Path | None:
    """Return the run folder ``place``, or the newest run folder in it. ``None`` if there is no run yet.

    Raises:
        UserError: If the folder does not exist, or is inside a run folder.
    """
    from imgrec.runs.folder import ENVIRONMENT, RunFolder, is_run_folder
    from imgrec.runs.table import find_run_folders

    if is_run_folder(place):
        return place
    found = [folder for folder in find_run_folders(place) if is_run_folder(folder)] if place.is_dir() else []
    if not found and (not place.is_dir() or any(map(is_run_folder, place.absolute().parents))):
        RunFolder(place)  # raises the reason
    return max(found, key=lambda folder: (folder / ENVIRONMENT).stat().st_mtime, default=None)


def _once(place: Path) -> int:
    from imgrec.cli.output import console_for
    from imgrec.runs.live import LiveRun

    folder = newest_run(place)
    console = console_for(_PIPED)
    if folder is None:
        console.print(f"no run yet in {place}")
        return 0
    live = LiveRun(folder)
    live.tail.read()
    console.print(frame(live, min(console.width, 160)))
    return 0


def _follow(place: Path, interval: float) -> int:
    from rich.live import Live

    from imgrec.runs.live import LiveRun
    from imgrec.utils.console import PlainConsole

    console = PlainConsole()
    waited = False
    while (folder := newest_run(place)) is None:
        if not waited:
            console.print(f"no run yet in {place}. Waiting for one")
            waited = True
        time.sleep(interval)
    live = LiveRun(folder)
    if not console.is_terminal:
        return _lines(live, interval)
    with Live(console=console, auto_refresh=False) as screen:
        while True:
            ended = live.has_ended
            live.tail.read()  # in this order, because nothing is written after the end of a run
            screen.update(frame(live, min(console.width, 160)), refresh=True)
            if ended:
                return 0
            time.sleep(interval)


def _lines(live: LiveRun, interval: float) -> int:
    """Print one line per epoch, without a terminal."""
    printed = 0
    print(f"{live.run.path}", flush=True)
    while True:
        ended = live.has_ended
        live.tail.read()
        for at in range(printed, len(live.tail.curves.get("train/loss", ()))):
            print(epoch_line(live, at), flush=True)
            printed = at + 1
        if ended:
            print(live.status, flush=True)
            return 0
        time.sleep(interval)


def epoch_line(live: LiveRun, epoch: int) -> str:
    """Return the losses, accuracies and remaining time after an epoch."""
    from imgrec.utils.formatting import duration

    curves, progress = live.tail.curves, live.progress()
    epoch = curves["train/loss"].epochs[epoch]
    total = f"/{progress.max_epochs}" if progress.max_epochs else ""
    parts = [f"epoch {epoch + 1}{total}"]
    for name in ("train/loss", "train/acc", "val/loss", "val/acc"):
        curve = curves.get(name)
        if curve is not None and epoch in curve.epochs:
            parts.append(f"{name} {curve.values[curve.epochs.index(epoch)]:.4f}")
    if progress.seconds_left and epoch + 1 == len(curves["train/loss"]):
        parts.append(f"about {duration(progress.seconds_left)} left")
    return "  ".join(parts)


def frame(live: LiveRun, width: int) -> Text:
    """Return the whole screen, ``width`` characters wide."""
    from rich.text import Text

    title = Text.assemble((live.run.experiment, "bold"), f"  {live.run.run_id}  ", (live.status, _style(live.status)))
    parts = [title, *_progress(live, width)]
    plots = [drawn for panel in PANELS if (drawn := _panel(live, *panel, width // 2 - 1 if width >= _WIDE else width))]
    if not plots:
        parts.append(
            Text("no figures yet: the first are written when the first epoch ends, or every log_every_n_steps")
        )
    elif width >= _WIDE and len(plots) == 2:
        parts.append(Text())
        for left, right in zip(*plots, strict=True):
            left.pad_right(max(width // 2 + 1 - left.cell_len, 0))
            parts.append(left + right)
    else:
        for plot in plots:
            parts += [Text(), *plot]
    return Text("\n").join(parts)


def _progress(live: LiveRun, width: int) -> list[Text]:
    from rich.text import Text

    from imgrec.utils.formatting import duration, epoch_text

    now = live.progress()
    first, second = [], []
    if live.tail.last is not None:
        first.append(f"epoch {now.epoch + 1}" + (f"/{now.max_epochs}" if now.max_epochs else ""))
        first.append(f"step {now.step:,}" + (f" of {now.max_steps:,}" if now.max_steps else ""))
    if now.seconds is not None:
        first.append(f"{duration(now.seconds)} {'so far' if live.status == 'running' else 'in total'}")
    if now.seconds_left and live.status == "running":
        first.append(f"about {duration(now.seconds_left)} left")
    if live.status == "running" and (silent := live.seconds_since_update()) > _SILENT:
        first.append(f"no update for {duration(silent)}")
    if now.steps_per_second:
        second.append(f"{now.steps_per_second:.3g} steps/s")
    if now.images_per_second:
        second.append(f"{now.images_per_second:,.0f} images/s")
    if now.data_wait is not None:
        second.append(f"{100 * now.data_wait:.0f} % waiting for data")
    if now.peak_memory_gib is not None:
        second.append(f"{now.peak_memory_gib:.1f} GiB")
    best = {metric: live.best(metric) for metric in ("val/acc", "val/loss")}
    third = [
        f"{metric} {found[0]:.4f} in {epoch_text(found[1])}" for metric, found in best.items() if found is not None
    ]
    lines = []
    if now.fraction is not None:
        done = round(now.fraction * _BAR)
        lines.append(Text.assemble(("━" * done, "blue"), ("─" * (_BAR - done), "dim"), f" {100 * now.fraction:.0f} %"))
    lines += [Text("   ".join(parts)) for parts in (first, second) if parts]
    if third:
        lines.append(Text("best  " + "   ".join(third), style="green"))
    for line in lines:
        line.truncate(width)
    return lines


def _panel(live: LiveRun, title: str, train: str, val: str, width: int) -> list[Text] | None:
    import numpy as np
    from rich.text import Text

    from imgrec.reports.terminal_plot import plot
    from imgrec.runs.live import LiveCurve

    curves = live.tail.curves
    line, marks = curves.get(train, LiveCurve()), curves.get(val, LiveCurve())
    steps = curves.get(f"{train}_step", LiveCurve())
    if len(steps) > len(line):  # the curve per step has more points
        line = steps
    values = np.array([*line.values, *marks.values])
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    low, high = float(values.min()), float(np.quantile(values, 0.99))
    if high - low < 1e-12:
        low, high = low - 0.5, high + 0.5
    x_range = (0.0, float(max([*line.steps[-1:], *marks.steps[-1:]])))
    drawn = plot(
        (line.steps, line.values),
        (marks.steps, marks.values),
        width=max(width - 9, 10),
        height=_HEIGHT,
        x_range=x_range,
        y_range=(low, high),
    )
    labels = {0: f"{high:8.4g}", _HEIGHT - 1: f"{low:8.4g}"}
    last = [_last_value("train", line), _last_value("val", marks)]
    head = Text.assemble((f"{title:<10}", "bold"), (f"⣀ {last[0]}   " if last[0] else "", "blue"), "")
    if last[1]:
        head.append(f"o {last[1]}", "dark_orange")
    head.truncate(width)
    rows = [
        Text.assemble((labels.get(i, " " * 8), "dim"), ("┤" if i in labels else "│", "dim")) for i in range(_HEIGHT)
    ]
    for row, text in zip(rows, drawn, strict=True):
        for character in text:
            row.append(character, "dark_orange" if character == "o" else "blue")
    return [head, *rows]


def _last_value(name: str, curve: LiveCurve) -> str:
    return f"{name} {curve.values[-1]:.4f}" if len(curve) else ""


def _style(status: str) -> str:
    return {"finished": "green", "running": "blue", "starting": "blue"}.get(status, "red")
