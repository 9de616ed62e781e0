"""Masks in training: movement pruning, restored weights, surgery and decisions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from imgrec.compress.pruning.mask_config import MaskConfig
from imgrec.compress.pruning.masked_model import Masking
from imgrec.compress.pruning.masks import first_and_last, fit_for, prunable
from imgrec.compress.pruning.schedule import Decisions
from imgrec.compress.pruning.weight_importance import Criterion
from imgrec.errors import UserError


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_movement_equals_the_published_method() -> None:
    """Compare with equations 2 to 4 of Sanh et al., computed with dense weights."""
    inputs = torch.randn(12, 8, 6, generator=seeded(0))
    targets = torch.randn(12, 8, 5, generator=seeded(1))
    dense = torch.randn(5, 6, generator=seeded(2))
    layer = nn.Linear(6, 5, bias=False)
    layer.weight.data.copy_(dense)
    masking = Masking("movement")
    masking.bind({"w": layer.weight})
    scores, mask, lr = torch.zeros(5, 6), torch.ones(5, 6), 0.3
    came_back = False
    for step in range(12):
        # the definition
        effective = (dense * mask).requires_grad_()
        ((inputs[step] @ effective.T - targets[step]) ** 2).mean().backward()  # type: ignore[no-untyped-call]
        assert effective.grad is not None
        scores -= dense * effective.grad
        # ours
        layer.zero_grad()
        ((layer(inputs[step]) - targets[step]) ** 2).mean().backward()
        masking.gather()
        torch.testing.assert_close(masking.sums["w"], scores)
        if step in (2, 4, 6, 8):
            keep = scores.flatten().argsort(descending=True)[: 30 - 4 * step // 2]
            before, mask = mask, torch.zeros(30).index_fill_(0, keep, 1).view(5, 6)
            came_back |= bool((mask > before).any())
            masking.prune(1 - len(keep) / 30)
            assert torch.equal(masking.masks["w"], mask)
            torch.testing.assert_close(layer.weight.detach(), dense * mask)
        masking.mask_gradients()
        with torch.no_grad():
            dense -= lr * effective.grad * mask
            layer.weight -= lr * layer.weight.grad  # type: ignore[operator]
        masking.mask_weights()
        torch.testing.assert_close(layer.weight.detach(), dense * mask)
    assert came_back


@pytest.mark.parametrize("criterion", ["magnitude", "random", "taylor"])
def test_masked_weights_remain_masked(criterion: Criterion) -> None:
    layer = nn.Conv2d(4, 6, 3, bias=False).to(memory_format=torch.channels_last)
    masking = Masking(criterion, seed=3)
    masking.bind({"w": layer.weight})
    before = torch.zeros(6, 4, 3, 3, dtype=torch.bool)
    for step, sparsity in enumerate((0.2, 0.5, 0.9)):
        layer.weight.grad = torch.randn(6, 4, 3, 3, generator=seeded(step))
        if masking.needs_gradients:
            masking.sums.clear()
            masking.gather()
        masking.prune(sparsity)
        gone = layer.weight == 0
        assert int(gone.sum()) == 216 - round((1 - sparsity) * 216)
        assert masking.sparsity == pytest.approx(sparsity, abs=0.5 / 216)
        assert bool((gone | ~before).all())
        masking.mask_gradients()
        assert torch.equal(layer.weight.grad == 0, gone)
        with torch.no_grad():
            layer.weight += 1.0  # as momentum does
        masking.mask_weights()
        assert torch.equal(layer.weight == 0, gone)
        before = gone
    assert masking.masks["w"].stride() == layer.weight.stride()  # or each product would be slow


def test_random_masks_depend_on_the_seed() -> None:
    def masks(seed: int) -> Tensor:
        masking = Masking("random", seed=seed)
        masking.bind({"w": nn.Linear(20, 20).weight})
        masking.prune(0.5)
        return masking.masks["w"]

    assert torch.equal(masks(1), masks(1))
    assert not torch.equal(masks(1), masks(2))


def test_a_pattern_is_independent_of_the_sparsity() -> None:
    layer = nn.Conv2d(8, 3, 3, bias=False)
    sizes = layer.weight.detach().abs()
    masking = Masking(pattern=(1, 4))
    masking.bind({"w": layer.weight})
    masking.prune(0.75)
    groups = sizes.movedim(1, -1).reshape(-1, 4)
    kept = masking.masks["w"].movedim(1, -1).reshape(-1, 4)
    assert torch.equal(kept.argmax(1), groups.argmax(1))
    assert kept.sum(1).eq(1).all()


def test_averages_are_masked_and_restart_for_restored_weights() -> None:
    layer = nn.Linear(2, 1, bias=False)
    layer.weight.data = torch.tensor([[2.0, 3.0]])
    masking = Masking("movement")
    masking.bind({"w": layer.weight})
    masking.sums = {"w": torch.tensor([[1.0, 0.0]])}
    masking.prune(0.5)
    average = torch.tensor([[1.5, 2.5]], dtype=torch.float64)
    masking.mask_others({"w": average, "other": torch.ones(1)})
    assert average.tolist() == [[1.5, 0.0]]
    masking.sums = {"w": torch.tensor([[0.0, 1.0]])}
    masking.prune(0.5)
    assert layer.weight.tolist() == [[0.0, 3.0]]
    masking.mask_others({"w": average})
    assert average.tolist() == [[0.0, 3.0]]


def test_masks_are_updated_after_channels_were_removed() -> None:
    first, second = nn.Linear(4, 3, bias=False), nn.Linear(3, 2, bias=False)
    masking = Masking()
    masking.bind({"0.weight": first.weight, "1.weight": second.weight})
    masking.prune(0.5)
    old = {name: mask.clone() for name, mask in masking.masks.items()}
    smaller = nn.Linear(4, 2, bias=False)
    rows = torch.tensor([0, 2])
    masking.update_weights({"0.weight": smaller.weight}, {"0.weight": torch.arange(12).view(3, 4)[rows]})
    assert list(masking.masks) == ["0.weight"]
    assert torch.equal(masking.masks["0.weight"], old["0.weight"][rows])
    assert torch.equal(smaller.weight == 0, masking.masks["0.weight"] == 0)
    with pytest.raises(UserError, match=r"expected 0\.weight of shape \(2, 4\), got the shape \(3, 4\)"):
        masking.bind({"0.weight": first.weight})


def test_the_state_is_restored() -> None:
    layer = nn.Linear(6, 5, bias=False)
    masking = Masking("movement")
    masking.bind({"w": layer.weight})
    layer.weight.grad = torch.randn(5, 6, generator=seeded(0))
    masking.gather()
    masking.prune(0.5)
    other = Masking("movement")
    other.load_state_dict(masking.state_dict())
    again = nn.Linear(6, 5, bias=False)
    other.bind({"w": again.weight})
    assert torch.equal(again.weight == 0, layer.weight == 0)
    for part in ("masks", "sums", "held"):
        assert torch.equal(getattr(other, part)["w"], getattr(masking, part)["w"])
    assert masking.state_dict()["masks"]["w"].dtype == torch.bool


# ---------------------------------------------------------------- when and which


@pytest.mark.parametrize(
    ("decisions", "made"),
    [
        (Decisions(2, 9, 3), [2, 5, 8, 9]),
        (Decisions(0, 0, 1), [0]),
        (Decisions(4, 6, 1), [4, 5, 6]),
        (Decisions(1, 4, 50), [1, 4]),
    ],
)
def test_decisions_are_at_the_first_step_every_interval_and_the_last(decisions: Decisions, made: list[int]) -> None:
    assert [step for step in range(12) if decisions.due(step) == step] == made
    for step in range(12):
        assert decisions.due(step) == max((each for each in made if each <= step), default=None)
        assert decisions.following(step) == min((each for each in made if each >= step), default=None)


def test_a_short_training_reaches_the_last_decision() -> None:
    assert Decisions.from_fractions(10, 0.1, 1.0) == Decisions(1, 9, 1)
    assert Decisions.from_fractions(1, 0.1, 0.6) == Decisions(0, 0, 1)
    assert Decisions.from_fractions(30, 0.1, 0.6, gathered=10).first == 9
    assert Decisions.from_fractions(1000, 0.1, 0.6, every=7).every == 7


def test_the_first_and_output_layers_are_dense_by_default() -> None:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3))
            self.head = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))

    model = Network()
    assert first_and_last(model) == ["backbone.0", "head.1"]
    assert list(MaskConfig().select_layers(model)[0]) == ["backbone.1.weight", "head.0.weight"]
    assert list(MaskConfig(exclude=["head*"]).select_layers(model)[0]) == ["backbone.0.weight", "backbone.1.weight"]
    assert list(MaskConfig(include=["head*"]).select_layers(model)[0]) == ["head.0.weight", "head.1.weight"]
    assert len(MaskConfig(exclude=[]).select_layers(model)[0]) == 4
    fitting, left = MaskConfig(pattern="2:4", exclude=[]).select_layers(model)
    assert list(fitting) == ["backbone.1.weight", "head.0.weight", "head.1.weight"]
    assert left == ["backbone.0"]
    assert list(fit_for(prunable(model), 8)) == ["head.1.weight"]
    with pytest.raises(UserError, match=r"expected a layer whose number of inputs is a multiple of 4, got backbone\.0"):
        MaskConfig(pattern="2:4", include=["backbone.0"]).select_layers(model)


def test_a_shared_weight_counts_once() -> None:
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    assert list(prunable(nn.Sequential(first, second))) == ["0.weight"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sparsity": 1.0}, "sparsity: expected float in [0, 1)"),
        ({"sparsity": 0.5, "pattern": "2:4"}, "Pruning.sparsity: expected no value together with pattern 2:4, got 0.5"),
        ({"pattern": "2-4"}, 'Pruning.pattern: expected N:M with 1 <= N < M, such as 2:4, got "2-4"'),
        ({"pattern": "2:4", "schedule": "cubic"}, "Pruning.schedule: expected one_shot together with pattern 2:4"),
        ({"start": 0.6, "end": 0.6}, "Pruning.start: expected a value below end 0.6, got 0.6"),
        ({"end": 1.5}, "end: expected float in [0, 1]"),
        ({"criterion": "magnitud"}, 'got "magnitud". Did you mean "magnitude"'),
        ({"scope": "layers"}, 'got "layers". Did you mean "layer"'),
        ({"schedule": "cosine"}, 'Pruning.schedule: expected one of one_shot, linear, cubic, got "cosine".'),
        ({"score_steps": 5}, "Pruning.score_steps: expected no value with criterion magnitude, got 5"),
        ({"every_n_steps": 0}, "every_n_steps: expected int > 0"),
    ],
)
def test_invalid_arguments_raise(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        MaskConfig(**arguments)
    assert message in str(caught.value)
