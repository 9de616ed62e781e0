"""Blocks of prose with their position, and the masking of code inside them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

Kind = Literal["docstring", "comment", "message", "document"]


class Violation(NamedTuple):
    """One violation of one rule."""

    path: str
    line: int
    rule: str
    text: str


@dataclass(frozen=True)
class Block:
    """A paragraph of prose.

    Args:
        line: Line of its first character in the file, from 1.
        text: Text, with line ends.
        kind: Kind of its source.
        is_list: True for list items, table rows and headings, whose length is not limited.
        one_line: True if every line end of the text is inside one line of the file.
    """

    line: int
    text: str
    kind: Kind
    is_list: bool = False
    one_line: bool = False

    def line_at(self, offset: int) -> int:
        """Return the line of a character in the file."""
        return self.line if self.one_line else self.line + self.text.count("\n", 0, offset)


_CODE = re.compile(
    r"""
    (?::[\w:]+:)?``.+?``            # literals
    | (?::[\w:]+:)?`[^`]+`(?:_{1,2})?  # roles and code of Markdown
    | https?://\S+
    | \{[^{}]*\}                    # placeholders of messages, mappings
    | \([\w*.+/-]+(?:,\s*[\w*.+/-]+)*,?\)(?<=[,\d*)])(?<!\w{3}\))  # shapes
    | <[\w.|/ -]+>
    | \b[\w./-]*[\w]\.(?:py|yaml|yml|json|csv|ckpt|md|html|ipynb|onnx|parquet|toml|lock|txt|png|jpg)\b
    | --[\w.-]+
    """,
    re.VERBOSE | re.DOTALL,
)
_SENTENCE_END = re.compile(r"[.!?][\"')\]*]*\s+(?=[A-Z0-9_(\"'*\[])")
_ABBREVIATION = re.compile(
    r"(?:\b(?:al|e\.g|i\.e|vs|cf|Figs?|Eqs?|Secs?|No|approx|ca|resp|Dr|St|pp?|vol)\.|^\s*\d+\.)$"
)
_CODES = re.compile(r"_[_\n]*(?:(?:,|/|\s+and|\s+or|,\s*and|,\s*or)\s*_[_\n]*)+")


def mask(text: str) -> str:
    """Replace code, URLs, placeholders and file names by underscores, without changing the length.

    >>> mask("Read ``a b`` of x.yaml.")
    'Read _______ of ______.'
    """
    return _CODE.sub(lambda match: "_" * len(match.group()), text)


def sentences(masked: str) -> Iterator[tuple[int, str]]:
    """Yield the offset and the text of every sentence of a masked paragraph.

    >>> [sentence for _, sentence in sentences("See He et al. 2016. It is new.")]
    ['See He et al. 2016.', 'It is new.']
    """
    start = 0
    for match in _SENTENCE_END.finditer(masked):
        if _ABBREVIATION.search(masked[start : match.start() + 1]):
            continue
        yield start, masked[start : match.end()].rstrip()
        start = match.end()
    if masked[start:].strip():
        yield start, masked[start:].rstrip()


def count_words(sentence: str) -> int:
    """Return the number of words of a masked sentence. A code span or a list of code spans is one word.

    >>> count_words(mask("One of ``a``, ``b`` or ``c`` - as in timm."))
    6
    """
    return sum(any(char.isalnum() or char == "_" for char in word) for word in _CODES.sub("_", sentence).split())
