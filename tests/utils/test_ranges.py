"""Argument ranges: the bounds of every type, in configs and in direct calls."""

from __future__ import annotations

import math
from typing import Any

import pytest

from imgrec.errors import SpecError, UserError
from imgrec.utils import ranges
from imgrec.utils.ranges import check_ranges, describe_type, is_in_range, without_ranges
from imgrec.utils.signature import check_type

CASES: list[tuple[str, list[Any], list[Any], str]] = [
    ("PositiveInt", [1, 7], [0, -1], "int > 0"),
    ("NonNegativeInt", [0, 3], [-1], "int >= 0"),
    ("FiniteFloat", [0.0, -2.5], [math.inf, math.nan], "float"),
    ("PositiveFloat", [1e-9, 3], [0.0, -1.0, math.inf, math.nan], "float > 0"),
    ("NonNegativeFloat", [0.0, 2.0], [-0.1, math.nan], "float >= 0"),
    ("ClosedUnitInterval", [0.0, 1.0], [-0.1, 1.1, math.nan], "float in [0, 1]"),
    ("OpenUnitInterval", [0.5], [0.0, 1.0], "float in (0, 1)"),
    ("LeftOpenUnitInterval", [1.0], [0.0, 1.5], "float in (0, 1]"),
    ("RightOpenUnitInterval", [0.0], [1.0], "float in [0, 1)"),
]


@pytest.mark.parametrize(("name", "inside", "outside", "text"), CASES, ids=[case[0] for case in CASES])
def test_bounds_and_description(name: str, inside: list[Any], outside: list[Any], text: str) -> None:
    hint: Any = getattr(ranges, name)
    listed: Any = list[hint]
    optional: Any = hint | None
    assert describe_type(hint) == text
    for value in inside:
        assert is_in_range(value, hint)
        assert check_type(value, hint, "x") == value
        assert check_type([value], listed, "x") == [value]
        assert check_type(value, optional, "x") == value
    for value in outside:
        assert not is_in_range(value, hint)
        for given, kind in ((value, hint), ([value], listed), (value, optional)):
            with pytest.raises(SpecError, match="x: expected"):
                check_type(given, kind, "x")
    assert check_type(None, optional, "x") is None
    assert without_ranges(dict[str, listed]) in (dict[str, list[int]], dict[str, list[float]])


def test_direct_calls() -> None:
    @check_ranges
    def build(size: ranges.PositiveInt, scale: tuple[ranges.PositiveFloat, ranges.PositiveFloat] = (1.0, 2.0)) -> int:
        return size

    assert build(3) == build(size=3, scale=(0.5, 1.0)) == 3
    with pytest.raises(UserError, match=r"^size: expected int > 0, got 0\.$"):
        build(0)
    with pytest.raises(UserError, match=r"^scale: expected tuple\[float > 0, float > 0\], got \(0\.0, 1\.0\)\.$"):
        build(1, scale=(0.0, 1.0))
    with pytest.raises(TypeError, match="missing 1 required"):
        build()  # type: ignore[call-arg]
