from __future__ import annotations

import pytest

from imgrec.reports.compression_section import BUDGET, _budget_cell


@pytest.mark.parametrize(
    ("drop", "expected"),
    [
        (-0.0, "holds: 0.00 of 1"),
        (-0.001, "holds: 0.00 of 1"),
        (-0.5, "holds: -0.50 of 1"),
        (2.0, "EXCEEDED: 2.00 of 1"),
    ],
)
def test_budget_cell_of_zero_loss_has_no_sign(drop: float, expected: str) -> None:
    assert _budget_cell({BUDGET: {"drop": drop, "max_drop": 1.0, "holds": drop <= 1}}) == expected
