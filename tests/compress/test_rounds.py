from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from imgrec.compress.pruning.schedule import Rounds
from imgrec.errors import UserError


def test_rounds_are_evenly_spaced() -> None:
    assert Rounds(0.1, 0.5, 5).steps_of(1000) == [100, 200, 300, 400, 500]
    assert Rounds(0.0, 0.9, 2).steps_of(10) == [0, 9]
    assert Rounds(0.25, rounds=1).steps_of(10) == [2]
    assert Rounds(0.25, rounds=1).last == 0.25
    assert Rounds(0.1, 0.5, 5).last == 0.5


@pytest.mark.parametrize("target", [0.1, 0.47, 0.9])
def test_every_round_removes_the_same_share_until_the_target(target: float) -> None:
    rounds = Rounds(rounds=4)
    parts = [rounds.remaining(number, target) for number in range(5)]
    assert parts[0] == 1
    assert parts[-1] == pytest.approx(target)
    assert [a - b for a, b in pairwise(parts)] == pytest.approx([(1 - target) / 4] * 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rounds": 0}, "rounds: expected int > 0, got 0"),
        ({"start": 1.0}, r"start: expected float in \[0, 1\), got 1.0"),
        ({"end": -0.5}, r"end: expected float in \[0, 1\)"),
        ({"start": 0.5, "end": 0.5}, "start: expected a value below end 0.5 for several rounds"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Rounds(**arguments)


@pytest.mark.parametrize(("rounds", "steps"), [(Rounds(0.1, 0.5, 5), 8), (Rounds(0.9, rounds=1), 1)])
def test_too_few_steps_are_refused(rounds: Rounds, steps: int) -> None:
    with pytest.raises(UserError, match=f"of {steps} steps leave none for training after each"):
        rounds.steps_of(steps)
