"""Rich console that escapes control characters and ignores markup."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from imgrec.utils.terminal import printable


class PlainConsole(Console):
    r"""Rich console for text from files and data.

    A class named ``[red]`` is printed unchanged, and an escape sequence in a file name is printed as ``\x1b``. Only
    rich objects set styles.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Return ``text`` as escaped rich text. Tables measure their cells with it."""
        return super().render_str(printable(text), **{**options, "markup": False, "emoji": False})

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield the rendered segments with escaped text."""
        return _escaped(super().render(renderable, options))


def _escaped(segments: Iterable[Segment]) -> Iterator[Segment]:
    for text, style, control in segments:
        yield Segment(text if control else printable(text), style, control)
