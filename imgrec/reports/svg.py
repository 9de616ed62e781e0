"""Matplotlib figures as inline SVG with the colours of the page, in light and dark mode."""

from __future__ import annotations

import hashlib
import io
import re
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# placeholder colours of matplotlib, which are replaced by CSS variables of the page
_VARIABLES = {"#010101": "ink", "#020202": "soft", "#030303": "line", "#040404": "blue", "#050505": "orange"}
INK, SOFT, LINE, BLUE, ORANGE = _VARIABLES
_VARIABLES |= {f"#0606{number:02x}": f"series-{number}" for number in range(8)}
SERIES = tuple(_VARIABLES)[5:]
"""Colours of series: the CSS variables ``--series-0`` to ``--series-7`` of the page."""

STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "imgrec",  # deterministic ids
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
"""Settings of matplotlib for all figures, with the placeholder colours."""


class SvgFigure:
    """Context manager for a matplotlib figure in the style of the page.

    Draw on ``figure`` inside the ``with`` block and read ``svg`` after it. Other figures and settings of matplotlib are
    not changed.

    Args:
        width: Width in inches.
        height: Height in inches.
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
    """Convert an SVG document to an element of a page, without prologue, metadata and size."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="(series-\d+)">', r'<g class="\1">', svg)  # ids set by set_gid become classes
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    for placeholder, name in _VARIABLES.items():
        svg = svg.replace(placeholder, f"var(--{name})")
    svg = re.sub(r"'DejaVu Sans'(?:, [^;\"]*)?", "inherit", svg)
    # ids of several figures on one page must differ, so a suffix is added to ids and references
    suffix = hashlib.blake2b(svg.encode(), digest_size=4).hexdigest()
    svg = re.sub(r'\bid="([^"]+)"', rf'id="\1-{suffix}"', svg)
    return re.sub(r'(xlink:href="#|url\(#)([^")]+)', rf"\1\2-{suffix}", svg).strip()
