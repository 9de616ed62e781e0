"""Rich consoles that escape control characters and read no markup in the text that they print."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from imgrec.utils.terminal import printable


class PlainConsole(Console):
    r"""A rich console for text that comes from files and data.

    A class called ``[red]`` is printed as such, and an escape sequence in a file name as ``\x1b``. Styles are given by
    rich objects only, never by markup.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Return ``text`` as rich text, escaped; a table measures its cells by it."""
        return super().render_str(printable(text), **{**options, "markup": False, "emoji": False})

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield the segments of what is rendered, their text escaped."""
        return _escaped(super().render(renderable, options))


def _escaped(segments: Iterable[Segment]) -> Iterator[Segment]:
    for text, style, control in segments:
        yield Segment(text if control else printable(text), style, control)
