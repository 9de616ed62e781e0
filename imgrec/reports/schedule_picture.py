"""The curve of a schedule as a picture, and as lines of text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from imgrec.errors import UserError
from imgrec.reports.terminal_plot import plot
from imgrec.utils.paths import written_aside

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WIDTH, _HEIGHT, _POINTS = 64, 12, 1001
_ENDINGS = (".png", ".svg", ".pdf")

Curve = Callable[[float], float]


def schedule_text(factor: Curve) -> list[str]:
    """The factor over training in Braille dots, with its axes."""
    places, values = _curve(factor)
    top = max(values) or 1.0
    lines = plot((places, values), ([], []), width=_WIDTH, height=_HEIGHT, x_range=(0, 1), y_range=(0, top))
    labels = {0: f"{top:g}", _HEIGHT - 1: "0"}
    drawn = [f"{labels.get(i, ''):>6} {line.rstrip()}" for i, line in enumerate(lines)]
    return [*drawn, f"{'0':>8}{'50 %':>{_WIDTH // 2}}{'100 % of training':>{_WIDTH // 2 + 8}}"]


def schedule_points(factor: Curve) -> dict[str, float]:
    """The factor at the beginning, at the end of the warm-up where there is one, in the middle and at the end."""
    warmup = float(getattr(factor, "warmup", 0.0))
    risen = {f"after the warm-up, at {100 * warmup:g} %": factor(warmup)} if warmup else {}
    return {"first step": factor(0.0), **risen, "half of training": factor(0.5), "end": factor(1.0)}


def schedule_picture(curves: Sequence[tuple[str, Curve]]) -> Figure:
    """The factors over training.

    Args:
        curves: what each is called, and the factor when a part of training, in [0, 1], is done.
    """
    from matplotlib.figure import Figure as MatplotlibFigure

    figure = MatplotlibFigure(figsize=(6.4, 3.6))
    axes = figure.subplots()
    for i, (name, factor) in enumerate(curves):
        axes.plot(*_curve(factor), color=f"C{i}", linewidth=1.8, label=name)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, None)
    axes.xaxis.set_major_formatter(lambda part, _: f"{100 * part:g} %")
    axes.set_xlabel("of training")
    axes.set_ylabel("times the learning rate")
    axes.grid(alpha=0.3, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    figure.tight_layout(pad=0.6)
    return figure


def check_picture_file(path: str | Path) -> Path:
    """The path, where a picture can be written under that name.

    Raises:
        UserError: another ending than that of a picture.
    """
    path = Path(path)
    if path.suffix.lower() not in _ENDINGS:
        raise UserError(f"a picture's file ends in {', '.join(_ENDINGS)}, got {path}")
    return path


def write_schedule_picture(path: str | Path, curves: Sequence[tuple[str, Curve]]) -> None:
    """Draw the curves into a file, in the format of its suffix.

    Raises:
        UserError: If the suffix is not that of a picture, or if the file cannot be written.
    """
    path = check_picture_file(path)
    figure = schedule_picture(curves)
    with written_aside(path) as aside:
        figure.savefig(aside, dpi=150)


def _curve(factor: Curve) -> tuple[list[float], list[float]]:
    places = [i / (_POINTS - 1) for i in range(_POINTS)]
    return places, [factor(place) for place in places]
