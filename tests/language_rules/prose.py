"""Rules for sentences: excluded phrases, sentence length, semicolons, the form of error messages."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tests.language_rules.blocks import Block, Violation, count_words, mask, sentences
from tests.language_rules.phrases import find_phrases

MAX_WORDS = 25

_OLD_FORM = re.compile(r"\bmust\s+be\b.*\bgot\b", re.DOTALL)


def _excerpt(text: str, start: int, end: int, margin: int = 34) -> str:
    first, last = max(0, start - margin), min(len(text), end + margin)
    shown = " ".join(text[first:last].split())
    return f"{'...' if first else ''}{shown}{'...' if last < len(text) else ''}"


def check_block(path: str, block: Block) -> Iterator[Violation]:
    """Yield the violations in one paragraph."""
    masked = mask(block.text)
    for rule, start, end, hint in find_phrases(masked):
        if rule == "where-if" and start == 0 and block.kind == "docstring":
            continue  # counted by the rule of first words
        found = " ".join(block.text[start:end].split())
        yield Violation(
            path, block.line_at(start), rule, f"{found!r} in {_excerpt(block.text, start, end)!r}: use {hint}"
        )
    for semicolon in re.finditer(";", masked):
        shown = _excerpt(block.text, *semicolon.span())
        yield Violation(path, block.line_at(semicolon.start()), "semicolon", f"{shown!r}: write two sentences")
    if block.kind == "message" and (match := _OLD_FORM.search(masked)):
        shown = _excerpt(block.text, *match.span())
        yield Violation(
            path, block.line_at(match.start()), "message-form", f"{shown!r}: `<key>: expected ..., got ...`"
        )
    if not block.is_list:
        for start, sentence in sentences(masked):
            words = count_words(sentence)
            if words > MAX_WORDS:
                shown = _excerpt(block.text, start, start + 60, 0)
                yield Violation(path, block.line_at(start), "sentence-length", f"{words} words: {shown!r}")
