"""Search of all files of the repository, and statistics of the docstrings of the package."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from tests.language_rules.blocks import Violation
from tests.language_rules.docstrings import QUESTION_WORDS
from tests.language_rules.documents import check_markdown, check_notebook, check_template
from tests.language_rules.names import check_duplicates, check_names, duplicate_names, public_definitions
from tests.language_rules.python_source import check_python, docstring_nodes, parse

ROOT = Path(__file__).resolve().parents[2]
PATTERNS = (
    "imgrec/**/*.py", "imgrec/**/*.html", "tests/**/*.py", "benchmarks/**/*.py", "notebooks/*.ipynb", "docs/**/*.md",
    "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md",
)  # fmt: skip


def find_files() -> list[Path]:
    """Return every file that is checked."""
    return sorted({path for pattern in PATTERNS for path in ROOT.glob(pattern) if "__pycache__" not in path.parts})


def check_file(path: str, content: str) -> Iterator[Violation]:
    """Yield the violations in one file, without those that concern several files."""
    if path.endswith(".ipynb"):
        yield from check_notebook(path, content)
    elif path.endswith(".md"):
        yield from check_markdown(path, content)
    elif path.endswith(".html"):
        yield from check_template(path, content)
    else:
        yield from check_python(path, content, with_messages=path.startswith("imgrec/"))
        if path.startswith("imgrec/"):
            _definitions(content)  # while the tree is in the cache
            yield from check_names(path, parse(content))


def _package_files() -> Iterator[tuple[str, str]]:
    """Yield path and content of every module of the package."""
    for path in find_files():
        if path.suffix == ".py" and path.is_relative_to(ROOT / "imgrec"):
            yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")


def find_violations(chosen: Iterable[str] = ()) -> list[Violation]:
    """Return the violations in all files, or in those below the given paths, by path and line."""
    below = tuple((ROOT / each).resolve() for each in chosen)

    def is_chosen(path: Path) -> bool:
        return not below or any(path.is_relative_to(each) for each in below)

    found: list[Violation] = []
    for path in filter(is_chosen, find_files()):
        found.extend(check_file(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")))
    definitions = {path: _definitions(content) for path, content in _package_files()}
    found.extend(each for each in check_duplicates(definitions) if is_chosen(ROOT / each.path))
    return sorted(found)


@cache
def _definitions(source: str) -> list[tuple[str, int]]:
    return public_definitions(parse(source))


def statistics() -> dict[str, str]:
    """Return the figures of the package that describe its language."""
    texts: list[str] = []
    owned: list[str] = []
    for _, content in _package_files():
        for node, owner in docstring_nodes(parse(content)):
            assert isinstance(node.value, str)
            texts.append(node.value)
            if owner is not None:
                owned.append(node.value)
    questions = sum(re.split(r"\W", text.strip(), maxsplit=1)[0].lower() in QUESTION_WORDS for text in owned)
    words = sum(len(text.split()) for text in texts)
    said = sum(len(re.findall(r"\b(?:says?|said|tells?|told)\b", text, re.IGNORECASE)) for text in texts)
    twice = duplicate_names({path: _definitions(content) for path, content in _package_files()})
    return {
        "docstrings of modules, classes and functions": f"{len(owned):,}",
        "begin with What, Whether, How, Where, Which": f"{questions} ({questions / len(owned):.1%})",
        "words of docstrings": f"{words:,}",
        "says, said, tells, told in docstrings": f"{said} ({1e4 * said / words:.1f} per 10,000 words)",
        "public names defined in several modules": f"{len(twice)}: {', '.join(twice)}",
    }
