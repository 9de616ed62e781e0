"""Blocks of prose in Python: docstrings, comments and messages."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import lru_cache

from tests.language_rules.blocks import Block, Violation
from tests.language_rules.docstrings import QUESTION_WORDS, check_docstring, owner_of, parse_docstring
from tests.language_rules.prose import check_block

_DIRECTIVE = re.compile(r"#\s*(?:type:|noqa|pragma|fmt:|mypy:|ruff:|doctest:|%%|!)[^#]*")
_COMMENT_OR_STRING = re.compile(
    r"""#.*|\"{3}(?:[^\\]|\\[\s\S])*?\"{3}|'{3}(?:[^\\]|\\[\s\S])*?'{3}|"(?:[^"\\\n]|\\[\s\S])*"|'(?:[^'\\\n]|\\[\s\S])*'""",
    re.ASCII,
)
_RULE_LINE = re.compile(r"#\s*[-=#]{4,}.*")
_NO_PROSE = re.compile(r"</|<svg|\{%|\{\{|px;|\\b|\(\?[:=!<]|;\s*\}")
_WORDS = re.compile(r"(?<![\w\"'{.])[A-Za-z]{2,}(?=[\s.,:;)?!]|$)")
_NEW_BLOCK = re.compile(r"^\s*(?:-|[\w|/+.=-]+\s{2,}\S|usage:)|^\s{2,}\S+.*\s{3,}\S")
_CODE_LINE = re.compile(r"^\s*(?:[\w.]+:(?:\s|$)|- |imgrec |make |python |pip |\$ |>>> |#)")


def _statements(node: ast.AST) -> list[ast.stmt]:
    """Return the statements directly inside a node."""
    found: list[ast.stmt] = []
    for name in ("body", "orelse", "handlers", "finalbody", "cases"):
        found += getattr(node, name, []) if not isinstance(node, ast.Lambda | ast.IfExp) else []
    return found


@lru_cache(maxsize=2)
def parse(source: str) -> ast.Module:
    """Return the syntax tree of a file."""
    return ast.parse(source)


def docstring_nodes(tree: ast.Module) -> Iterator[tuple[ast.Constant, ast.AST | None]]:
    """Yield every docstring with its owner. The docstring of an attribute has the owner None."""
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        has_docstring = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        for position, statement in enumerate(_statements(node)):
            pending.append(statement)
            value = statement.value if isinstance(statement, ast.Expr) else None
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield value, node if position == 0 and has_docstring else None


def comments(source: str) -> Iterator[Block]:
    """Yield the comments of a file. Consecutive lines are one block."""
    lines: list[str] = []
    start, column, last, row, position = 0, -1, -1, 1, 0
    for match in _COMMENT_OR_STRING.finditer(source):
        if not match[0].startswith("#"):
            continue
        row += source.count("\n", position, match.start())
        position = match.start()
        line_start = source.rfind("\n", 0, position) + 1
        col = position - line_start
        text = _RULE_LINE.sub("", _DIRECTIVE.sub("", match[0])).lstrip("#").strip()
        own_line = not source[line_start:position].strip()
        if lines and not (own_line and row == last + 1 and col == column and text):
            yield Block(start, "\n".join(lines), "comment")
            lines = []
        if text:
            if not lines:
                start = row
            lines.append(text)
            column, last = (col if own_line else -1), row
    if lines:
        yield Block(start, "\n".join(lines), "comment")


def _text(node: ast.expr) -> str | None:
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
    return None


def _strings(node: ast.AST, skipped: set[int]) -> Iterator[ast.Constant | ast.JoinedStr]:
    """Yield the outermost strings below a node. Patterns of regular expressions are left out."""
    if id(node) in skipped:
        return
    if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str)):
        yield node
        if isinstance(node, ast.JoinedStr):
            for part in node.values:
                if isinstance(part, ast.FormattedValue):
                    yield from _strings(part.value, skipped)
        return
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) == "re":
        return
    for child in ast.iter_child_nodes(node):
        yield from _strings(child, skipped)


def _paragraphs(line: int, text: str) -> Iterator[Block]:
    """Split a text of several lines, such as the help of a command, into blocks without examples."""
    found: list[str] = []
    start = line
    for number, each in enumerate(text.split("\n")):
        code = _CODE_LINE.match(each)
        if found and (code or not each.strip() or _NEW_BLOCK.match(each)):
            yield Block(start, "\n".join(found), "message")
            found = []
        if each.strip() and not code:
            if not found:
                start = line + number
            found.append(each.strip() if not _NEW_BLOCK.match(each) else re.sub(r"^\s*\S.*?\s{2,}", "", each).strip())
    if found:
        yield Block(start, "\n".join(found), "message")


def messages(tree: ast.Module, lines: list[str]) -> Iterator[Block]:
    """Yield the string literals that are prose: three words or more, and no markup."""
    documented = {id(node) for node, _ in docstring_nodes(tree)}
    for node in _strings(tree, documented):
        text = _text(node) or ""
        if len(_WORDS.findall(text)) < 3 or " " not in text or _NO_PROSE.search(text):
            continue
        opening = lines[node.lineno - 1][node.col_offset : node.col_offset + 5]
        if text.strip().count("\n") and '"""' in opening:
            yield from _paragraphs(node.lineno, text)
        else:
            for paragraph in filter(str.strip, text.split("\n")):
                yield Block(node.lineno, paragraph.strip(), "message", one_line=True)


def _check_help(path: str, tree: ast.Module) -> Iterator[Violation]:
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "help":
            text = _text(node.value) or ""
            first = text.split(maxsplit=1)[0].strip(",:;") if text.strip() else ""
            if first.lower() in QUESTION_WORDS:
                yield Violation(path, node.value.lineno, "first-word", f"help begins with {first!r}: {text[:50]!r}")


def check_python(path: str, source: str, with_messages: bool) -> Iterator[Violation]:
    """Yield the violations in a Python file.

    Args:
        path: Path of the file, for the violations.
        source: Content of the file.
        with_messages: True to check string literals and help texts as well.
    """
    tree = parse(source)
    in_tests = path.startswith("tests/")
    for node, owner in docstring_nodes(tree):
        assert isinstance(node.value, str)
        yield from check_docstring(path, node.value, node.lineno, owner_of(owner, in_tests) if owner else "attribute")
        for block in parse_docstring(node.value, node.lineno).blocks:
            yield from check_block(path, block)
    for block in comments(source):
        yield from check_block(path, block)
    if with_messages:
        for block in messages(tree, source.split("\n")):
            yield from check_block(path, block)
        if "help=" in source:
            yield from _check_help(path, tree)
