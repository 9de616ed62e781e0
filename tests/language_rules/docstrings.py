"""Rules for the form of a docstring: first word, order of sections, entries of Args and Raises."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from tests.language_rules.blocks import Block, Violation
from tests.language_rules.verbs import THIRD_PERSON, VERBS, is_verb, words

Owner = Literal["module", "class", "function", "predicate", "property", "test", "attribute"]

QUESTION_WORDS = words("what whether how where which who whose whom why when")
FIRST_WORDS = QUESTION_WORDS | words(
    """
    within behind of by it its this that these those they them their theirs he she we you something everything nothing
    anything somebody everybody nobody whatever whoever wherever such from for as while so at along between in on to
    with without but and or into beside
    """
)
_ENTRY_WORDS = QUESTION_WORDS | words(
    "of by it they this that these those them theirs its within behind whatever as such so see from to"
)
_SECTION = re.compile(
    r"^(Args|Arguments|Attributes|Returns|Yields|Raises|Warns|Examples?|Shapes?|Notes?|Warning|Sources?|References?|"
    r"See also|Inputs|Relations|Keyword args):{1,2}[ \t]*(.*)$"
)
_ORDER = {"Args": 0, "Arguments": 0, "Returns": 1, "Yields": 1, "Raises": 2, "Example": 3, "Examples": 3}
_ENTRY = re.compile(r"^(\s+)([\w.*`:~, ]+?)(?:\s*\([^()]*\))?:(?:\s+(.*))?$")
_ITEM = re.compile(r"^\s*(?:[-*+]|\d+[.)])\s+")
_WORD = re.compile(r"[A-Za-z][\w'-]*")


@dataclass
class Docstring:
    """The parts of a docstring.

    Args:
        blocks: Paragraphs of prose, without code, tables and citations.
        sections: Name and line of every section.
        args: Line and description of every entry of Args.
        raises: Line and description of every entry of Raises.
    """

    blocks: list[Block] = field(default_factory=list)
    sections: list[tuple[str, int]] = field(default_factory=list)
    args: list[tuple[int, str]] = field(default_factory=list)
    raises: list[tuple[int, str]] = field(default_factory=list)


def _dedent(text: str) -> list[str]:
    lines = text.expandtabs().split("\n")
    margins = [len(line) - len(line.lstrip()) for line in lines[1:] if line.strip()]
    margin = min(margins, default=0)
    return [lines[0].strip(), *(line[margin:].rstrip() for line in lines[1:])]


class _Parser:
    """Line-by-line parser of one docstring in Google style."""

    def __init__(self, first_line: int) -> None:
        self.result = Docstring()
        self._first_line = first_line
        self._section = ""
        self._entry_indent = -1
        self._open: list[str] = []
        self._start = 0
        self._is_list = False

    def flush(self) -> None:
        """Store the open paragraph."""
        text = "\n".join(self._open)
        if text.strip():
            self.result.blocks.append(Block(self._start, text, "docstring", self._is_list))
        self._open, self._is_list = [], False

    def _is_citation(self) -> bool:
        return self._section.startswith(("Source", "Reference"))

    def end_paragraph(self) -> None:
        """Process a blank line."""
        self.flush()
        if self._is_citation():
            self._section = ""

    def add(self, number: int, text: str) -> None:
        """Add a line to the open paragraph."""
        if not self._open:
            self._start = self._first_line + number
        self._open.append(text)

    def start_section(self, number: int, name: str, rest: str) -> None:
        """Start a section."""
        self.flush()
        self._section, self._entry_indent = name, -1
        self.result.sections.append((name, self._first_line + number))
        if rest and not name.startswith(("Source", "Reference", "Example")):
            self.add(number, rest)

    def take(self, number: int, line: str) -> None:
        """Process a line that is neither blank nor code."""
        if not line[0].isspace() and not self._is_citation():
            self._section = ""
        if self._is_citation() or self._section.startswith("Example"):
            return
        entry = _ENTRY.match(line) if self._section in ("Args", "Arguments", "Attributes", "Raises", "Warns") else None
        if entry and (self._entry_indent < 0 or len(entry[1]) == self._entry_indent):
            self.flush()
            self._entry_indent = len(entry[1])
            described = entry[3] or ""
            found = {"Args": self.result.args, "Arguments": self.result.args, "Raises": self.result.raises}
            if self._section in found:
                found[self._section].append((self._first_line + number, described))
            self.add(number, described)
            return
        if line.count("|") > 1 or line.lstrip().startswith(("===", "---", ".. ")):
            self.flush()
            return
        if _ITEM.match(line):
            self.flush()
            self._is_list = True
        self.add(number, line.strip())


def parse_docstring(text: str, first_line: int) -> Docstring:
    """Return the parts of a docstring whose first line in its file is ``first_line``."""
    parser = _Parser(first_line)
    literal_indent, in_doctest = -1, False
    for number, line in enumerate(_dedent(text)):
        indent = len(line) - len(line.lstrip())
        if not line.strip():
            parser.end_paragraph()
            in_doctest = False
            continue
        if literal_indent >= 0 and indent > literal_indent:
            continue
        literal_indent = -1
        if in_doctest or line.lstrip().startswith(">>>"):
            in_doctest = True
            parser.flush()
            continue
        section = _SECTION.match(line)
        if section:
            parser.start_section(number, section[1], section[2])
        else:
            parser.take(number, line)
        if line.endswith("::"):
            literal_indent = indent
            parser.flush()
    parser.flush()
    return parser.result


def _first_words(text: str) -> tuple[str, str]:
    parts = text.split(maxsplit=3)
    found = [_WORD.fullmatch(word.strip(".,:;!?*\"'")) for word in parts[:2]]
    first, second = (match.group() if match else "" for match in (*found, None, None)[:2])
    return first, second.lower()


def first_word_violation(text: str, owner: Owner) -> tuple[str, str] | None:
    """Return the rule and the message if a docstring begins with a word that its owner does not allow.

    >>> first_word_violation("Scales each image.", "class")
    ('class-noun', "begins with the verb 'Scales': begin with a noun phrase")
    >>> first_word_violation("Return the scale.", "function")
    """
    first, second = _first_words(text)
    lower = first.lower()
    if lower in FIRST_WORDS:
        return "first-word", f"begins with {first!r}: {' '.join(text.split()[:9])!r}"
    if owner in ("function", "predicate"):
        if lower in THIRD_PERSON and is_verb(lower, second or "the") and lower not in VERBS:
            return "imperative", f"third person {first!r}: use {THIRD_PERSON[lower].capitalize()!r}"
        if lower not in VERBS or second == "of":
            shown = " ".join(text.split()[:7])
            return "imperative", f"begins with no verb of the list: {shown!r}"
    if owner == "predicate" and lower == "return" and not re.match(r"Return\s+`*(?:True|False)`*\s+if\b", text):
        return "predicate", f'expected "Return True if", got {" ".join(text.split()[:7])!r}'
    if owner == "class" and is_verb(lower, second):
        return "class-noun", f"begins with the verb {first!r}: begin with a noun phrase"
    return None


def check_docstring(path: str, text: str, line: int, owner: Owner) -> Iterator[Violation]:
    """Yield the violations of the form of one docstring."""
    found = first_word_violation(text.strip(), owner)
    if found:
        yield Violation(path, line, *found)
    parsed = parse_docstring(text, line)
    highest = -1
    for name, number in parsed.sections:
        position = _ORDER.get(name, -1)
        if 0 <= position < highest:
            yield Violation(
                path, number, "section-order", f"{name} follows a later section: Args, Returns, Raises, Example"
            )
        highest = max(highest, position)
    for number, described in parsed.args:
        first, second = _first_words(described)
        if first.lower() in _ENTRY_WORDS and not re.match(r"[Ss]ee\s+(?::|`)", described):
            yield Violation(path, number, "args-noun", f"entry begins with {first!r}: {described[:60]!r}")
        elif is_verb(first.lower(), second) and not (first[:1].isupper() and first.lower() in ("set", "number")):
            yield Violation(path, number, "args-noun", f"entry begins with the verb {first!r}: {described[:60]!r}")
        elif first.lower() == "if" and not re.match(
            r"if\s+`*(?:True|False|set|given|None|not|enabled)\b", described, re.I
        ):
            yield Violation(path, number, "args-noun", f"entry begins with a condition: {described[:60]!r}")
    for number, described in parsed.raises:
        if not re.match(r"If\s", described + " "):
            yield Violation(path, number, "raises-if", f'expected "If <condition>.", got {described[:60]!r}')


def owner_of(node: ast.AST, in_tests: bool) -> Owner:
    """Return which rule of first words applies to the docstring of a node."""
    if isinstance(node, ast.Module):
        return "module"
    if isinstance(node, ast.ClassDef):
        return "class"
    assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    decorators = {ast.unparse(each.func if isinstance(each, ast.Call) else each) for each in node.decorator_list}
    if any(name.endswith(("property", ".setter", "fixture")) for name in decorators):
        return "property"
    if in_tests and node.name.startswith("test"):
        return "test"
    return "predicate" if node.returns is not None and ast.unparse(node.returns) == "bool" else "function"
