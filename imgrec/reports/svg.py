"""Figures as inline SVG that takes its colours from the page around it, in light and in dark."""

from __future__ import annotations

import hashlib
import io
import re
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# matplotlib draws with these stand-ins; the page's CSS variables take their place in the SVG
_VARIABLES = {"#010101": "ink", "#020202": "soft", "#030303": "line", "#040404": "blue", "#050505": "orange"}
INK, SOFT, LINE, BLUE, ORANGE = _VARIABLES
_VARIABLES |= {f"#0606{number:02x}": f"series-{number}" for number in range(8)}
SERIES = tuple(_VARIABLES)[5:]
"""Colours of things of one kind, for a page that gives them to its variables ``--series-0`` to ``--series-7``."""

STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "imgrec",  # equal figures give equal files
    "text.parse_math": False,
    "path.simplify": True,
    "font.size": 9.0,
    "font.sans-serif": ["DejaVu Sans"],
    "text.color": INK,
    "axes.facecolor": "none",
    "axes.axisbelow": True,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": SOFT,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "lines.linewidth": 1.6,
}
"""matplotlib's settings for all figures, in the stand-ins' colours."""


class SvgFigure:
    """A matplotlib figure in the page's style: draw on ``figure`` inside ``with``, read ``svg`` after it.

    The user's own matplotlib settings and figures are neither used nor touched. The size is in inches.
    """

    figure: Figure

    def __init__(self, width: float, height: float) -> None:
        self.size = (width, height)
        self.svg = ""

    def __enter__(self) -> Self:
        from matplotlib import style
        from matplotlib.figure import Figure as MatplotlibFigure

        self._settings = style.context(STYLE, after_reset=True)
        self._settings.__enter__()
        self.figure = MatplotlibFigure(figsize=self.size, facecolor="none")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        try:
            if error is None:
                buffer = io.StringIO()
                self.figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
                self.svg = _inline(buffer.getvalue())
        finally:
            self._settings.__exit__(kind, error, trace)


def _inline(svg: str) -> str:
    """An SVG document as an element of the page: without prologue, metadata and size, coloured by the page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="(series-\d+)">', r'<g class="\1">', svg)  # what a figure named by set_gid, for the page
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    for stand_in, name in _VARIABLES.items():
        svg = svg.replace(stand_in, f"var(--{name})")
    svg = re.sub(r"'DejaVu Sans'(?:, [^;\"]*)?", "inherit", svg)
    # the ids of several drawings on one page must differ: what refers to them gets the same ending
    ending = hashlib.blake2b(svg.encode(), digest_size=4).hexdigest()
    svg = re.sub(r'\bid="([^"]+)"', rf'id="\1-{ending}"', svg)
    return re.sub(r'(xlink:href="#|url\(#)([^")]+)', rf"\1\2-{ending}", svg).strip()
