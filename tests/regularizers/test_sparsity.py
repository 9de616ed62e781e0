from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from imgrec.errors import SpecError, UserError
from imgrec.models import build_classifier
from imgrec.regularizers import REGULARIZERS
from imgrec.regularizers.channel_groups import channel_groups
from imgrec.types import DataFacts, StepOutput


class Residual(nn.Module):
    """Network with a residual convolution of two channels, a hidden layer and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 2, 1, bias=False)
        self.norm = nn.BatchNorm2d(2)
        self.branch = nn.Conv2d(2, 2, 1, bias=False)
        self.hidden = nn.Linear(8, 3)
        self.head = nn.Linear(3, 5)

    def forward(self, images: Tensor) -> Tensor:
        features = self.norm(self.stem(images))
        added = features + self.branch(features)
        logits: Tensor = self.head(self.hidden(added.flatten(1)).relu())
        return logits


def step(model: nn.Module, shape: tuple[int, ...]) -> StepOutput:
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    logits = model(images)
    return StepOutput(images, torch.zeros(shape[0], dtype=torch.int64), logits, logits, epoch=0)


def randomized() -> Residual:
    model = Residual()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(-1, 1, generator=torch.Generator().manual_seed(parameter.numel()))
    return model


def by_hand(model: Residual) -> list[tuple[Tensor, int]]:
    """Return the norms of both groups per channel, and the number of weights per channel."""
    stem, norm, branch, hidden, head = (
        m.weight.detach() for m in (model.stem, model.norm, model.branch, model.hidden, model.head)
    )
    added = [
        torch.cat(
            [
                stem[k].flatten(),
                norm[k : k + 1],
                branch[k].flatten(),
                branch[:, k].flatten(),
                hidden[:, 4 * k : 4 * k + 4].flatten(),
            ]
        )
        for k in range(2)
    ]
    inner = [torch.cat([hidden[k], head[:, k]]) for k in range(model.hidden.out_features)]
    return [(torch.stack([torch.linalg.vector_norm(v) for v in group]), group[0].numel()) for group in (added, inner)]


def test_a_channel_has_every_weight_that_goes_with_it() -> None:
    model = randomized()
    groups = sorted(channel_groups(model, torch.zeros(1, 1, 2, 2)), key=lambda group: group.channels)
    weights = dict(model.named_parameters())
    for group, (norms, size) in zip(groups, by_hand(model), strict=True):
        torch.testing.assert_close(group.squares(weights).sqrt(), norms)
        assert group.size == size


def test_group_lasso_against_the_formula() -> None:
    model = randomized()
    penalty = REGULARIZERS.build("group_lasso")(step(model, (4, 1, 2, 2)), model)
    expected = sum(float(norms.sum()) * size**0.5 for norms, size in by_hand(model))
    assert float(penalty.detach()) == pytest.approx(expected, rel=1e-5)


def test_group_norm_shrinks_each_weight_as_depgraph_does() -> None:
    model = randomized()
    REGULARIZERS.build({"name": "group_norm", "alpha": 3.0})(step(model, (4, 1, 2, 2)), model).backward()
    norms, _ = by_hand(model)[1]
    factors = 2 ** (3.0 * (norms.max() - norms) / (norms.max() - norms.min()))
    assert model.head.weight.grad is not None
    torch.testing.assert_close(model.head.weight.grad, factors * model.head.weight.detach())


def test_bn_scale_is_the_sum_of_the_absolute_scales() -> None:
    model = randomized()
    penalty = REGULARIZERS.build("bn_scale")(step(model, (4, 1, 2, 2)), model)
    assert float(penalty.detach()) == pytest.approx(float(model.norm.weight.detach().abs().sum()))


def test_zero_channel_has_zero_gradient() -> None:
    model = randomized()
    with torch.no_grad():
        model.hidden.weight[0] = 0
        model.head.weight[:, 0] = 0
    for name in ("group_lasso", "group_norm"):
        model.zero_grad()
        REGULARIZERS.build(name)(step(model, (4, 1, 2, 2)), model).backward()
        assert model.head.weight.grad is not None
        assert not model.head.weight.grad[:, 0].any()
        assert model.head.weight.grad.isfinite().all()


def channels_left(penalty: nn.Module | None) -> int:
    """Return the number of nonzero channels out of eight after training a network that requires one."""
    torch.manual_seed(0)
    scale, last = nn.BatchNorm2d(8), nn.Linear(8, 2)
    model = nn.Sequential(nn.Conv2d(1, 8, 1, bias=False), scale, nn.Flatten(), last)
    images = torch.randn(256, 1, 1, 1)
    targets = (images.flatten() > 0).long()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(300):
        logits = model(images)
        loss = nn.functional.cross_entropy(logits, targets)
        if penalty is not None:
            loss = loss + 0.02 * penalty(StepOutput(images, targets, logits, logits, epoch=0), model)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert (model(images).argmax(1) == targets).float().mean() > 0.95
    effect = scale.weight.detach().abs() * last.weight.detach().norm(dim=0)
    return int((effect > 0.05 * effect.max()).sum())


@pytest.mark.parametrize("name", ["bn_scale", "group_lasso"])
def test_redundant_channels_converge_to_zero(name: str) -> None:
    assert channels_left(None) == 8
    assert channels_left(REGULARIZERS.build(name)) <= 4


@pytest.mark.parametrize(
    "backbone",
    [
        {"name": "resnet18", "layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8], "stem_width": 8},
        {"name": "vit_tiny_patch16_224", "depth": 2, "embed_dim": 24},
        {"name": "mobilenetv3_small_050"},
        {"name": "convnext_atto", "depths": [1, 1, 1, 1], "dims": [8, 8, 8, 8]},
    ],
    ids=lambda spec: str(spec["name"]),
)
def test_network_is_unchanged(backbone: dict[str, Any]) -> None:
    model = build_classifier(backbone, "linear", "half", DataFacts(("a", "b"), (1, 1), image_size=32))
    model.head.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    fused = [getattr(module, "fused_attn", None) for module in model.modules()]
    drawn = torch.random.get_rng_state()
    groups = channel_groups(model, torch.zeros(2, 3, 32, 32, dtype=torch.uint8))
    assert torch.equal(torch.random.get_rng_state(), drawn)
    assert {group.channels for group in groups} != set()
    assert all(not part.name.startswith("head.") or part.dim == 1 for group in groups for part in group.slices)
    assert [module.training for module in model.modules()] == modes
    assert [getattr(module, "fused_attn", None) for module in model.modules()] == fused
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_narrower_network_has_other_groups() -> None:
    penalty = REGULARIZERS.build("group_lasso")
    wide = randomized()
    penalty(step(wide, (2, 1, 2, 2)), wide)
    wide.hidden, wide.head = nn.Linear(8, 2), nn.Linear(2, 5)
    expected = sum(float(norms.sum()) * size**0.5 for norms, size in by_hand(wide))
    assert float(penalty(step(wide, (2, 1, 2, 2)), wide).detach()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), "expected a network with channels that can be pruned"),
        (lambda: nn.Sequential(nn.Conv2d(1, 2, 1), nn.Flatten(), nn.Linear(8, 2)), "requires batch normalization"),
    ],
)
def test_network_without_penalized_layers_is_rejected(make: Callable[[], nn.Module], message: str) -> None:
    model = make()
    name = "bn_scale" if "batch" in message else "group_lasso"
    with pytest.raises(UserError, match=message):
        REGULARIZERS.build(name)(step(model, (1, 1, 2, 2)), model)


def test_negative_alpha_is_rejected() -> None:
    with pytest.raises(SpecError, match="alpha"):
        REGULARIZERS.check({"name": "group_norm", "alpha": -1.0}, "model.regularizers")


def test_scope_selects_weights_of_channel() -> None:
    model = randomized()
    penalty = REGULARIZERS.build({"name": "group_lasso", "scope": "head"})(step(model, (4, 1, 2, 2)), model)
    columns = torch.linalg.vector_norm(model.head.weight.detach(), dim=0)
    assert float(penalty.detach()) == pytest.approx(float(columns.sum()) * 5**0.5, rel=1e-5)
    with pytest.raises(UserError, match=r"scope: 'head\.bias' matches no weight of a channel"):
        REGULARIZERS.build({"name": "group_norm", "scope": "head.bias"})(step(model, (4, 1, 2, 2)), model)
    for name in ("group_lasso", "group_norm", "bn_scale"):
        refused: Any = REGULARIZERS.build({"name": name, "scope": "tail"})
        with pytest.raises(UserError, match='the pattern "tail" matches no parameter'):
            refused.check_model(model)
    assert REGULARIZERS.build({"name": "bn_scale", "scope": "norm"})(step(model, (1, 1, 2, 2)), model) > 0
    refused = REGULARIZERS.build({"name": "bn_scale", "scope": "hidden"})
    with pytest.raises(UserError, match="requires batch normalization"):
        refused.check_model(model)
