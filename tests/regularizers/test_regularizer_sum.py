from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from imgrec.errors import SpecError
from imgrec.regularizers import (
    RegularizerSum,
    build_regularizers,
    check_regularizers,
    l1_penalty,
    l2_penalty,
    ramp_factor,
)
from imgrec.types import StepOutput

OUTPUT = StepOutput(torch.zeros(1), torch.zeros(1), torch.zeros(1, 2), torch.zeros(1, 2), epoch=0)


def test_the_total_and_the_weighted_parts() -> None:
    model = nn.Linear(4, 2)
    penalties = build_regularizers(
        [{"name": "l1", "weight": 0.1}, {"name": "l2", "weight": 0.5, "ramp": [0.2, 0.6]}, {"name": "l1", "weight": 2}]
    )
    l1, l2 = l1_penalty([model.weight]), l2_penalty([model.weight])
    for progress, factor in ((0.0, 0.0), (0.4, 0.5), (0.6, 1.0), (1.0, 1.0)):
        total, parts = penalties(OUTPUT, model, progress)
        expected = {"l1": 0.1 * l1, "l2": 0.5 * factor * l2, "l1_2": 2 * l1}
        assert list(parts) == list(expected)
        torch.testing.assert_close(parts, {k: v.detach() for k, v in expected.items()})
        torch.testing.assert_close(total, sum(expected.values(), start=torch.zeros(())))
        assert not any(part.requires_grad for part in parts.values())
    total.backward()
    assert model.weight.grad is not None
    torch.testing.assert_close(model.weight.grad, 2.1 * model.weight.detach().sign() + 0.5 * model.weight.detach())
    assert model.bias.grad is None


@pytest.mark.parametrize("specs", [None, []])
def test_total_of_empty_list_is_zero(specs: Any) -> None:
    total, parts = build_regularizers(specs)(OUTPUT, nn.Linear(2, 2), 0.5)
    assert total.item() == 0
    assert total.shape == ()
    assert parts == {}


def test_a_ramp_is_linear_between_its_ends() -> None:
    assert [ramp_factor(p, (0.25, 0.75)) for p in (0, 0.25, 0.375, 0.5, 0.75, 1)] == [0, 0, 0.25, 0.5, 1, 1]
    assert ramp_factor(0.0, None) == 1.0


def test_a_penalty_without_weight_is_not_computed() -> None:
    class Counting(nn.Module):
        calls = 0

        def forward(self, output: StepOutput, model: nn.Module) -> torch.Tensor:
            self.calls += 1
            return output.logits.sum()

    counting = Counting()
    penalties = RegularizerSum([counting], [1.0], [(0.5, 1.0)])
    penalties(OUTPUT, nn.Linear(2, 2), 0.5)
    assert counting.calls == 0
    penalties(OUTPUT, nn.Linear(2, 2), 0.6)
    assert counting.calls == 1
    assert penalties.names == ["Counting"]


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        ("l2", r"^model\.regularizers: requires the key `weight`, for example \{name: l2, weight: 0\.0001\}"),
        ([{"name": "l1", "weight": 1}, {"name": "l2"}], r"^model\.regularizers\[1\]: requires the key `weight`"),
        ({"name": "l3", "weight": 1}, r'^model\.regularizers: no regularizer is called "l3"\. Did you mean'),
        ({"name": "l2", "weight": -1}, r"^model\.regularizers\.weight: expected "),
        ({"name": "l2", "weight": True}, r"^model\.regularizers\.weight: expected float"),
        ({"name": "l2", "weight": 1, "ramp": [0.5, 0.5]}, r"^model\.regularizers\.ramp: expected two fractions"),
        ({"name": "l2", "weight": 1, "ramp": [0.5, 1.5]}, r"^model\.regularizers\.ramp: expected two fractions"),
        ({"name": "l2", "weight": 1, "ramp": 0.5}, r"^model\.regularizers\.ramp: expected"),
        ({"name": "l2", "weight": 1, "norm_bias": True}, r'no argument "norm_bias"\. Did you mean "norm_and_bias"'),
        ([{"name": "elastic_net", "weight": 1, "l1_ratio": 2}], r"^model\.regularizers\[0\]\.l1_ratio: expected"),
    ],
)
def test_invalid_values_are_rejected_with_key(specs: Any, message: str) -> None:
    for call in (check_regularizers, build_regularizers):
        with pytest.raises(SpecError, match=message):
            call(specs, "model.regularizers")
