"""Averages of tensors, against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from imgrec.optim.averaging import mean_state


def states(count: int, dtype: torch.dtype = torch.float32) -> list[dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    return [
        {"a": torch.randn(3, 4).to(dtype), "b": torch.randn(7).to(dtype), "n": torch.tensor(i)} for i in range(count)
    ]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_mean_equals_numpy(count: int) -> None:
    given = states(count)
    found = mean_state(given)
    for name in ("a", "b"):
        expected = np.mean([state[name].double().numpy() for state in given], axis=0)
        assert np.allclose(found[name].numpy(), expected, atol=1e-6)
    assert found["n"] == 0  # a count is no weight: that of the first
    assert list(found) == list(given[0])


def test_half_precision_is_summed_in_float32() -> None:
    """1 and 300 times 2^-9: in bfloat16, each sum beyond 1 would be 1 again."""
    given = [{"a": torch.ones(1, dtype=torch.bfloat16)}]
    given += [{"a": torch.full((1,), 2**-9, dtype=torch.bfloat16)} for _ in range(300)]
    found = mean_state(given)["a"]
    assert found.dtype == torch.bfloat16
    assert abs(float(found) - (1 + 300 * 2**-9) / 301) < 2e-5  # bfloat16 of the mean itself


def test_inputs_are_unchanged() -> None:
    given = states(3)
    before = [{name: value.clone() for name, value in state.items()} for state in given]
    found = mean_state(given)
    found["a"] += 1
    assert all(torch.equal(state[name], old[name]) for state, old in zip(given, before, strict=True) for name in state)


def test_mean_of_equal_states_is_exact() -> None:
    one = states(1)[0]
    found = mean_state([one, one])
    assert all(torch.equal(found[name], one[name]) for name in one)


@pytest.mark.parametrize(
    "other",
    [{"a": torch.ones(2)}, {"a": torch.ones(3, 1)}, {"a": torch.ones(3, dtype=torch.float64)}, {"a": None, "c": None}],
)
def test_incompatible_states_are_rejected(other: dict[str, torch.Tensor]) -> None:
    with pytest.raises(ValueError, match=r"state dicts that do not belong together: [ac]"):
        mean_state([{"a": torch.ones(3)}, other])
    with pytest.raises(ValueError, match="the mean of no state dicts"):
        mean_state([])
