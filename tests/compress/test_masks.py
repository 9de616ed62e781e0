"""Masks of single weights, N:M masks and schedules of sparsity."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import nn

from imgrec.compress import (
    SCORES,
    accumulate,
    apply_masks,
    keep_best,
    n_of_m,
    prunable,
    score,
    sparsity_at,
    sparsity_of,
)
from imgrec.compress.pruning.weight_importance import Criterion
from imgrec.errors import UserError


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1), nn.Flatten(), nn.Linear(4 * 36, 5))


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.5, 0.93, 1.0])
def test_exactly_the_largest_weights_of_all_layers_remain(sparsity: float) -> None:
    weights = prunable(network())
    assert list(weights) == ["0.weight", "2.weight", "4.weight"]
    masks = keep_best(score(weights, "magnitude"), sparsity)
    total = sum(w.numel() for w in weights.values())
    sizes = torch.cat([w.detach().abs().flatten() for w in weights.values()])
    kept = torch.cat([m.flatten() for m in masks.values()])
    assert int(kept.sum()) == round((1 - sparsity) * total)
    if 0 < sparsity < 1:
        assert sizes[kept].min() >= sizes[~kept].max()


def test_layer_scope_and_order_of_ties() -> None:
    masks = keep_best({"a": torch.ones(10), "b": torch.arange(6.0)}, 0.5, "layer")
    assert masks["a"].tolist() == [True] * 5 + [False] * 5
    assert masks["b"].tolist() == [False] * 3 + [True] * 3


@pytest.mark.parametrize(("shape", "n", "m"), [((6, 8), 2, 4), ((4, 16, 3, 3), 2, 4), ((4, 8, 1, 1), 1, 8)])
def test_n_of_every_m_inputs_remain(shape: tuple[int, ...], n: int, m: int) -> None:
    scores = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    kept = n_of_m(scores, n, m)
    for out in range(shape[0]):
        taps = scores[out].reshape(shape[1], -1).T
        mask = kept[out].reshape(shape[1], -1).T
        for tap, row in zip(taps, mask, strict=True):
            for start in range(0, shape[1], m):
                best = tap[start : start + m].topk(n).indices
                assert sorted(best.tolist()) == row[start : start + m].nonzero().flatten().tolist()


def test_gradient_scores_equal_the_published_formulas() -> None:
    weight = nn.Parameter(torch.tensor([1.0, -2.0, 3.0]))
    sums: dict[Criterion, dict[str, torch.Tensor]] = {name: {} for name in ("taylor", "snip", "movement")}
    for gradient in ([0.5, 1.0, 0.0], [-0.5, 1.0, 1.0]):
        weight.grad = torch.tensor(gradient)
        for name, held in sums.items():
            accumulate(held, {"w": weight}, name)
    found = {name: score({"w": weight}, name, held)["w"].tolist() for name, held in sums.items()}
    assert found == {"taylor": [0.5, 8.0, 9.0], "snip": [0.0, 4.0, 3.0], "movement": [0.0, 4.0, -3.0]}


def test_taylor_equals_the_change_of_a_linear_loss() -> None:
    weight = nn.Parameter(torch.randn(7, generator=torch.Generator().manual_seed(1)))
    slope = torch.randn(7, generator=torch.Generator().manual_seed(2))
    (weight @ slope).backward()  # type: ignore[no-untyped-call]
    sums: dict[str, torch.Tensor] = {}
    accumulate(sums, {"w": weight}, "taylor")
    whole = float((weight @ slope).detach())
    for i in range(7):
        without = weight.detach().clone()
        without[i] = 0
        assert (whole - float(without @ slope)) ** 2 == pytest.approx(float(sums["w"][i]), rel=1e-4, abs=1e-10)


def test_random_scores_depend_on_the_seed() -> None:
    weights = prunable(network())
    one, again, other = (score(weights, "random", generator=torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    assert all(torch.equal(one[n], again[n]) and not torch.equal(one[n], other[n]) for n in weights)


def test_masked_nan_weights_are_zero() -> None:
    weights = {"w": torch.tensor([1.0, float("nan"), 3.0])}
    apply_masks(weights, {"w": torch.tensor([True, False, True])})
    assert weights["w"].tolist() == [1, 0, 3]
    assert sparsity_of(weights) == pytest.approx(1 / 3)


def test_the_schedule_equals_the_published_curve() -> None:
    steps = [sparsity_at(p / 100, 0.8, 0.1, 0.5) for p in range(101)]
    assert steps[:10] == [0.0] * 10
    assert steps[10] == 0
    assert steps[30] == pytest.approx(0.8 - 0.8 * 0.5**3)
    assert steps[50:] == [0.8] * 51
    assert steps == sorted(steps)
    assert sparsity_at(0.3, 0.8, 0.1, 0.5, "linear") == pytest.approx(0.4)
    assert sparsity_at(0.1, 0.8, 0.1, 0.5, "one_shot") == 0.8


def test_invalid_arguments_are_refused() -> None:
    model = network()
    with pytest.raises(UserError, match=r'"fc\*" matches no layer\. The layers are 0, 2, 4'):
        prunable(model, ["fc*"])
    with pytest.raises(UserError, match="no layer is left"):
        prunable(model, exclude=["*"])
    with pytest.raises(ValueError, match="NaN"):
        keep_best({"w": torch.tensor([1.0, float("nan")])}, 0.5)
    with pytest.raises(ValueError, match="2 of every 4"):
        n_of_m(torch.rand(4, 6))
    with pytest.raises(ValueError, match=r"requires the gradients of 0\.weight"):
        score(prunable(model), "taylor", {})


def test_all_criteria_have_an_implementation() -> None:
    assert set(SCORES) == set(get_args(Criterion))
