"""Rules for public names of the package."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping

from tests.language_rules.blocks import Violation
from tests.language_rules.verbs import words

PROTOCOL_NAMES = frozenset({"main", "run", "build", "add_arguments", "register"})
"""Functions that several modules define for one caller."""

BARE_WORDS = words(
    """
    told said chosen given found taken kept shown seen asked wanted needed known made done drawn built written
    fitted widened stood gone held meant
    it its they them theirs this that these those one ones other others another what which who whose how why some
    everything nothing something anything none whatever each such
    of own elsewhere anew behind beside within around above below between into onto by at upon apart along together
    beyond besides instead there here then thus
    """
)
"""Pronouns, prepositions, adverbs and participles that are no name by themselves."""

PREDICATE_PREFIXES = tuple(
    words(
        "is_ has_ can_ should_ are_ needs_ preserves_ supports_ "
        "requires_ allows_ uses_ contains_ matches_ accepts_ was_ in_ all_ "
        "any_ same_ equal exists matches contains supports"
    )
)


def _functions(body: list[ast.stmt]) -> Iterator[tuple[ast.FunctionDef | ast.AsyncFunctionDef, bool]]:
    """Yield the public functions of a module and the public methods of its public classes."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
            yield node, True
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from ((method, False) for method, _ in _functions(node.body))


def _is_predicate(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    doc = (ast.get_docstring(node) or "").lstrip("`")
    returns_bool = node.returns is not None and ast.unparse(node.returns) == "bool"
    return (
        returns_bool
        and not node.name.startswith("check_")
        and not node.decorator_list
        and doc.startswith(("Return True if", "Whether", "Return ``True`` if"))
    )


def check_names(path: str, tree: ast.Module) -> Iterator[Violation]:
    """Yield the public names of a module that are no noun, verb or predicate."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name.lower() in BARE_WORDS:
            yield Violation(path, node.lineno, "name", f"class {node.name}: use a noun")
    for function, _ in _functions(tree.body):
        if function.name in BARE_WORDS:
            yield Violation(path, function.lineno, "name", f"function {function.name}: use a verb")
        arguments = (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)
        for argument in arguments:
            if argument.arg in BARE_WORDS:
                found = f"parameter {argument.arg} of {function.name}: use a noun"
                yield Violation(path, argument.lineno, "name", found)
        if _is_predicate(function) and not function.name.startswith(PREDICATE_PREFIXES):
            found = f"predicate {function.name}: use is_..., has_... or can_..."
            yield Violation(path, function.lineno, "predicate-name", found)


def public_definitions(tree: ast.Module) -> list[tuple[str, int]]:
    """Return name and line of the public classes and functions of a module."""
    return [
        (node.name, node.lineno)
        for node in tree.body
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_")
    ]


def duplicate_names(modules: Mapping[str, list[tuple[str, int]]]) -> dict[str, list[tuple[str, int]]]:
    """Return path and line of every definition of a public name that several modules define.

    Args:
        modules: Result of :func:`public_definitions` for every module, by path.
    """
    found: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for path, definitions in modules.items():
        for name, line in definitions:
            found[name].append((path, line))
    return {
        name: places
        for name, places in sorted(found.items())
        if len({path for path, _ in places}) > 1 and name not in PROTOCOL_NAMES
    }


def check_duplicates(modules: Mapping[str, list[tuple[str, int]]]) -> Iterator[Violation]:
    """Yield every definition of a public name that several modules define."""
    for name, places in duplicate_names(modules).items():
        for path, line in places:
            others = ", ".join(other for other, _ in places if other != path)
            yield Violation(path, line, "duplicate-name", f"{name} is defined in {others} as well")
