from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from imgrec.models.utils.nonfinite import BadOutput, FirstNonfinite, nonfinite


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_nonfinite_names(dtype: torch.dtype, bad: float) -> None:
    tensors: dict[str, Tensor | None] = {f"t{i}": torch.full((3, 5), 6e4, dtype=dtype) for i in range(4)}
    for name in ("t1", "t3"):
        tensor = tensors[name]
        assert tensor is not None
        tensor[2, 4] = bad
    tensors |= {"none": None, "empty": torch.ones(0), "whole": torch.ones(2, dtype=torch.int64)}
    assert nonfinite(tensors) == ["t1", "t3"]
    assert nonfinite({}) == []


def test_large_finite_values_are_finite() -> None:
    assert nonfinite({"large": torch.full((10,), 1e38)}) == []


class Divides(nn.Module):
    """A module that divides by a number after its child modules."""

    def __init__(self, by: float) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 2)
        self.by = by

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"out": self.inner(x) / self.by}


def test_innermost_module_is_reported() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.ReLU(), Divides(0.0)))
    with FirstNonfinite(net) as watch:
        net(torch.ones(3, 2))
    assert watch.found == BadOutput("1.1", "Divides", (0, 1, 2))
    sound = nn.Sequential(nn.Linear(2, 2), Divides(1.0))
    with FirstNonfinite(sound) as watch:
        sound(torch.ones(3, 2))
    assert watch.found is None


def test_rows_are_reported_and_hooks_removed() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2), nn.Softmax(1))
    images = torch.ones(4, 1, 2, 2)
    images[2, 0, 1, 1] = float("nan")
    with FirstNonfinite(net) as watch:
        net(images)
    assert watch.found == BadOutput("0", "Flatten", (2,))
    assert not any(module._forward_hooks for module in net.modules())
