"""Blocks of prose in Markdown, in notebooks and in HTML templates."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser

from tests.language_rules.blocks import Block, Violation
from tests.language_rules.prose import check_block
from tests.language_rules.python_source import check_python
from tests.language_rules.verbs import words

_LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")
_LIST = re.compile(r"^\s*(?:[-*+]|\d+[.)])\s")
_BLOCK_TAGS = words(
    "p h1 h2 h3 h4 td th tr li ul ol table section header main div figure figcaption details summary dt dd dl title "
    "button label option nav footer caption thead tbody body html head"
)


def markdown_blocks(text: str) -> Iterator[Block]:
    """Yield the paragraphs, list items, headings and table rows of Markdown, without code blocks.

    >>> [(block.line, block.text, block.is_list) for block in markdown_blocks("# A\\n\\nb\\nc\\n- d")]
    [(1, 'A', True), (3, 'b\\nc', False), (5, 'd', True)]
    """
    found: list[str] = []
    start, is_list, in_code, in_comment = 1, False, False, False

    def finish() -> Iterator[Block]:
        if found:
            yield Block(start, "\n".join(found), "document", is_list)
            found.clear()

    for number, line in enumerate(text.split("\n"), start=1):
        if line.lstrip().startswith(("```", "~~~")):
            yield from finish()
            in_code = not in_code
            continue
        in_comment = in_comment or "<!--" in line
        if in_code or in_comment:
            in_comment = in_comment and "-->" not in line
            continue
        table, heading = line.lstrip().startswith("|"), line.startswith("#")
        item = _LIST.match(line)
        if not line.strip() or table or heading or item:
            yield from finish()
            is_list = False
        if line.strip():
            if not found:
                start, is_list = number, bool(table or heading or item)
            shown = line.lstrip("#> ") if not item else line[item.end() :]
            found.append(_LINK.sub(r"\1", shown).strip())
        if heading or table:
            yield from finish()
    yield from finish()


def check_markdown(path: str, text: str, offset: int = 0) -> Iterator[Violation]:
    """Yield the violations in Markdown whose first line is line ``offset`` + 1 of its file."""
    for block in markdown_blocks(text):
        for found in check_block(path, block):
            yield found._replace(line=found.line + offset)


def check_notebook(path: str, content: str) -> Iterator[Violation]:
    """Yield the violations in the cells of a notebook."""
    lines = content.split("\n")
    position = 0
    for cell in json.loads(content)["cells"]:
        source = "".join(cell["source"])
        if not source.strip():
            continue
        first = json.dumps(source.split("\n", 1)[0], ensure_ascii=False)[1:-1]
        position = next((i for i in range(position, len(lines)) if first in lines[i]), position)
        if cell["cell_type"] == "markdown":
            yield from check_markdown(path, source, position)
        elif cell["cell_type"] == "code":
            python = re.sub(r"^(\s*)[%!].*$", r"\1pass", source, flags=re.MULTILINE)
            for found in check_python(path, python, with_messages=False):
                yield found._replace(line=found.line + position)


class _VisibleText(HTMLParser):
    """Collector of the visible text of a page, one block per element."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.blocks: list[Block] = []
        self._hidden = 0
        self._text = ""
        self._line = 1

    def _finish(self) -> None:
        if re.search(r"[A-Za-z]", self._text):
            lead = len(self._text) - len(self._text.lstrip())
            line = self._line + self._text.count("\n", 0, lead)
            self.blocks.append(Block(line, self._text.strip(), "document"))
        self._text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._hidden += tag in ("style", "script")
        if tag in _BLOCK_TAGS:
            self._finish()
        for name, value in attrs:
            if name in ("alt", "title", "aria-label", "placeholder") and value and " " in value:
                self.blocks.append(Block(self.getpos()[0], value, "document", is_list=True))

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in ("style", "script")
        if tag in _BLOCK_TAGS:
            self._finish()

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            if not self._text:
                self._line = self.getpos()[0]
            self._text += data

    def close(self) -> None:
        super().close()
        self._finish()


def check_template(path: str, text: str) -> Iterator[Violation]:
    """Yield the violations in the visible text of an HTML template. Expressions of Jinja are one word each."""
    bare = re.sub(r"\{\{.*?\}\}", lambda match: "{" + "_" * (len(match[0]) - 2) + "}", text)
    bare = re.sub(r"\{[%#].*?[%#]\}", lambda match: "\n" * match[0].count("\n"), bare, flags=re.DOTALL)
    page = _VisibleText()
    page.feed(bare)
    page.close()
    for block in page.blocks:
        yield from check_block(path, block)
