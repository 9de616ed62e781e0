"""Wording of the code and the documentation: tests/language_rules finds no violation."""

from __future__ import annotations

import pytest

from tests.language_rules.collect import check_file, find_violations
from tests.language_rules.names import check_duplicates

COMMAND = "python -m tests.language_rules"


def test_no_text_violates_the_rules() -> None:
    found = [f"{each.path}:{each.line}: {each.rule}: {each.text}" for each in find_violations()]
    assert not found, "\n".join([f"`{COMMAND}` prints them:", *found])


# ---------------------------------------------------------------- the rules


def rules_of(source: str, path: str = "imgrec/x.py") -> list[str]:
    return sorted(each.rule for each in check_file(path, source + "\n"))


@pytest.mark.parametrize(
    ("docstring", "rule"),
    [
        ("What the network returns.", "first-word"),
        ("Whether it is open.", "first-word"),
        ("The number of images.", "imperative"),
        ("Returns the number of images.", "imperative"),
        ("Count of images.", "imperative"),
        ("Return the scale, or None where there is none.", "where-if"),
        ("Raise UserError where that cannot be.", "cannot-be"),
        ("Write what the run says.", "personification"),
        ("Read the file anew.", "anew"),
        ("Return the first, else the last.", "else"),
        ("Build the layer in the place of others.", "place-of"),
        ("Go on from the checkpoint.", "go-on"),
        ("Return the folder; create it first.", "semicolon"),
        ("Return " + "one word and " * 9 + "the end.", "sentence-length"),
        ("Return it.\n\n    Args:\n        x: what is read.", "args-noun"),
        ("Return it.\n\n    Args:\n        x: whether to read.", "args-noun"),
        ("Return it.\n\n    Raises:\n        UserError: the number is 0.", "raises-if"),
        ("Return it.\n\n    Raises:\n        UserError: If it is 0.\n\n    Args:\n        x: Number.", "section-order"),
    ],
)
def test_a_violation_of_a_function_is_found(docstring: str, rule: str) -> None:
    assert rule in rules_of(f'def f(x):\n    """{docstring}"""')


@pytest.mark.parametrize(
    "docstring",
    [
        "Return the 0-based steps at which to prune.",
        "Stop training when the loss or weights become NaN or infinite, and report the first affected layer.",
        "Place quantizers so that ONNX Runtime can run the operators between them in int8.",
        "Zero the gradient of kernel weights that only see padding.",
        "Return ``a; b if c else d``.",
        "Return the folder where runs are stored, and everything else in it.",
        "Return it.\n\n    Args:\n        x: Number of images, the same for every model. 0 skips accuracy.\n"
        "        y: If True, the weights are kept.\n\n    Raises:\n        UserError: If `decay` is out of range.\n\n"
        '    Example::\n\n        what: where; else\n\n    Source: Who et al., 2021, "What lies beside"; anew.',
        "Return it.\n\n    >>> x  # what it says; anew\n    'else'\n    ",
    ],
)
def test_standard_wording_is_accepted(docstring: str) -> None:
    assert rules_of(f"def f(x):\n    '''{docstring}'''") == []


@pytest.mark.parametrize(
    ("source", "rule"),
    [
        ('class A:\n    """Scales each image."""', "class-noun"),
        ("class Given:\n    pass", "name"),
        ("def told():\n    pass", "name"),
        ("def f(chosen):\n    pass", "name"),
        ('def even() -> bool:\n    """Return True if it is even."""', "predicate-name"),
        ('def is_even() -> bool:\n    """Return the parity."""', "predicate"),
        ("x = 1  # the weights stand here", "stands-lies"),
        ('x = 1\n"""Which file it is."""', "first-word"),
        ('raise ValueError(f"the config says nothing of {x}")', "personification"),
        ('raise ValueError(f"`scale` must be above 0, got {x}")', "message-form"),
        ('parser.add_argument("--x", help="where the runs are")', "first-word"),
    ],
)
def test_a_violation_of_other_code_is_found(source: str, rule: str) -> None:
    assert rules_of(source) == [rule]


def test_classes_and_messages_in_standard_wording_are_accepted() -> None:
    assert rules_of('class A:\n    """Weights of each layer."""') == []
    assert rules_of('raise UserError(f"`scale`: expected (min, max) with 0 < min <= max <= 1, got {x}.")') == []
    assert rules_of("pattern = re.compile('(say|tell) what it is (else|anew)')") == []


def test_documents_are_checked_outside_code() -> None:
    text = "# Title\n\nThe run says why.\n\n```sh\nsay anew\n```\n\n| a | b |\n|---|---|\n| beside | `else` |\n"
    assert rules_of(text, "README.md") == ["beside", "personification"]
    page = "<style>a { b: c; }</style><p>The runs {{ a if b else c }} stand\nhere</p>{% if a else b %}"
    assert rules_of(page, "imgrec/a.html") == ["stands-lies"]
    notebook = '{"cells": [{"cell_type": "code", "source": ["%x\\n", "# read anew"]}]}'
    assert rules_of(notebook, "notebooks/a.ipynb") == ["anew"]


def test_names_that_several_modules_define_are_found() -> None:
    modules = {path: [("load", 1), ("main", 3)] for path in ("a.py", "b.py")}
    assert [(each.path, each.rule) for each in check_duplicates(modules)] == [
        ("a.py", "duplicate-name"),
        ("b.py", "duplicate-name"),
    ]
