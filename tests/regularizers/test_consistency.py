from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon  # type: ignore[import-untyped]
from torch import Tensor, nn

from imgrec.augment import BatchRandom, BatchTransform
from imgrec.errors import SpecError, UserError
from imgrec.regularizers import (
    REGULARIZERS,
    JensenShannon,
    RDrop,
    augmix,
    build_regularizers,
    jensen_shannon,
    symmetric_kl,
)
from imgrec.types import PART_FACTS, StepOutput, sample_keys

KEYS = sample_keys(f"image {i}" for i in range(400))


class Brighter(BatchTransform):
    """Transform that adds a constant, which identifies the applied transforms in the result."""

    def __init__(self, by: float) -> None:
        self.by = by

    def __call__(self, images: Tensor, draws: BatchRandom) -> Tensor:
        return images + self.by


def logits(seed: int) -> Tensor:
    return 2 * torch.randn(6, 5, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------- divergences


def test_symmetric_divergence_equals_torch() -> None:
    one, other = (torch.distributions.Categorical(logits=logits(seed)) for seed in (0, 1))
    kl = torch.distributions.kl_divergence
    expected = (kl(one, other) + kl(other, one)).mean() / 2
    torch.testing.assert_close(symmetric_kl(logits(0), logits(1)), expected)


def test_jensen_shannon_divergence_equals_scipy() -> None:
    one, other = (logits(seed).double().softmax(1).numpy() for seed in (0, 1))
    expected = np.mean(jensenshannon(one, other, axis=1) ** 2)
    assert jensen_shannon(logits(0), logits(1)).item() == pytest.approx(expected, rel=1e-5)
    three = [logits(seed).double().softmax(1) for seed in range(3)]
    mean = torch.stack(three).mean(0)
    expected = sum((p * (p / mean).log()).sum(1).mean() / 3 for p in three)
    assert jensen_shannon(*(logits(seed) for seed in range(3))).item() == pytest.approx(float(expected), rel=1e-5)


def test_extreme_logits_stay_finite() -> None:
    sure, other = torch.tensor([[300.0, -300.0]], requires_grad=True), torch.tensor([[-300.0, 300.0]])
    for value in (symmetric_kl(sure, other), jensen_shannon(sure, other, sure)):
        (gradient,) = torch.autograd.grad(value, sure)
        assert torch.isfinite(value)
        assert torch.isfinite(gradient).all()


# ---------------------------------------------------------------- R-Drop


def test_r_drop_requires_dropout() -> None:
    for net in (nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.0))):
        with pytest.raises(UserError, match=r"^model\.regularizers: r_drop requires a network with dropout"):
            build_regularizers({"name": "r_drop", "weight": 1.0}).check_model(net)
    RDrop().check_model(nn.Dropout(0.1))


def test_both_passes_learn() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(12, 3))
    images = torch.rand(4, 3, 2, 2)
    first = net(images)
    penalty = RDrop()(StepOutput(images, torch.zeros(4), first, first, epoch=0), net)
    assert penalty > 0
    assert torch.autograd.grad(penalty, first)[0].abs().sum() > 0


# ---------------------------------------------------------------- AugMix


def test_a_view_is_a_mean_of_chains_and_of_the_image() -> None:
    """A chain of n transforms adds n * 0.01, so the mean over chains and weights is known."""
    images = torch.zeros(400, 1, 2, 2)
    view = augmix(images, [Brighter(0.01), Brighter(0.01)], BatchRandom(KEYS, 0), chains=3)
    assert torch.equal(view.amin((1, 2, 3)), view.amax((1, 2, 3)))
    added = view[:, 0, 0, 0]
    assert added.min() >= 0
    assert added.max() <= 0.03 + 1e-6
    assert added.mean().item() == pytest.approx(0.5 * 0.02, rel=0.1)  # half of two transforms
    assert len(set(added.tolist())) > 390


def test_every_transform_is_used() -> None:
    view = augmix(torch.zeros(400, 1, 2, 2), [Brighter(0.1), Brighter(-0.1)], BatchRandom(KEYS, 0), chains=1)
    assert (view.flatten(1)[:, 0] > 0.001).float().mean() == pytest.approx(0.4, abs=0.12)
    assert (view.flatten(1)[:, 0] < -0.001).float().mean() == pytest.approx(0.4, abs=0.12)


def test_weights_of_chains_are_dirichlets() -> None:
    from imgrec.regularizers.augmix import _dirichlet

    weights = _dirichlet(BatchRandom(KEYS, 3), 4, 1.0)
    torch.testing.assert_close(weights.sum(1), torch.ones(400))
    torch.testing.assert_close(weights.mean(0), torch.full((4,), 0.25), atol=0.03, rtol=0)
    torch.testing.assert_close(weights.var(0), torch.full((4,), 3 / 16 / 5), atol=0.01, rtol=0)  # of Dirichlet(1, ...)


def test_an_image_is_seen_the_same_in_any_batch() -> None:
    made = JensenShannon(image_size=8, in_channels=3)
    images = torch.randint(256, (400, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    whole = made._view(images, BatchRandom(KEYS, 0, 1))
    part = made._view(images[5:9], BatchRandom(KEYS[5:9], 0, 1))
    torch.testing.assert_close(whole[5:9], part)
    assert not torch.equal(whole, made._view(images, BatchRandom(KEYS, 0, 2)))
    assert whole.min() >= 0
    assert whole.max() <= 1


def test_views_go_through_the_network_in_one_pass() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[Tensor] = []

        def forward(self, images: Tensor) -> Tensor:
            self.seen.append(images)
            return images.mean((2, 3))

    net, images = Counting(), torch.rand(5, 3, 4, 4)
    made = JensenShannon({"name": "brightness", "amount": 0.9}, views=3, image_size=4, in_channels=3)
    first = net(images)
    made(StepOutput(images, torch.zeros(5), first, first, epoch=0, keys=KEYS[:5]), net)
    assert [len(each) for each in net.seen] == [5, 15]
    views = net.seen[1].chunk(3)
    assert all(not torch.equal(one, other) for one in views for other in (*views, images) if one is not other)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"views": 0}, "views: expected "),
        ({"chains": -1}, "chains: expected int >= 0"),
        ({"alpha": 0.0}, "alpha: expected .*, got 0"),
        ({"transforms": []}, "transforms: expected one transform or more"),
        ({"transforms": ["mixup"]}, "(?i)transforms: expected batch transforms, got mixup"),
        ({"transforms": "augmix"}, "(?i)transforms: expected batch transforms, got augmix"),
        ({"transforms": ["brightnes"]}, r'^r\.transforms\[0\]: no augmentation is called "brightnes"'),
        (
            {"transforms": [{"name": "affine", "degree": 3}]},
            r'transforms\[0\]: the augmentation "affine" has no argument',
        ),
    ],
)
def test_invalid_values_are_rejected(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        REGULARIZERS.check({"name": "jensen_shannon", **spec}, "r", PART_FACTS)
    facts = {"num_classes": 2, "image_size": 8, "in_channels": 3}
    with pytest.raises(SpecError, match=message):
        REGULARIZERS.build({"name": "jensen_shannon", **spec}, "r", **facts)


def test_transform_that_changes_size_is_rejected() -> None:
    class Half(BatchTransform):
        def __call__(self, images: Tensor, draws: BatchRandom) -> Tensor:
            return images[..., ::2]

    with pytest.raises(UserError, match="transforms: expected transforms that keep the size of images, got Half"):
        augmix(torch.zeros(4, 1, 2, 2), [Half()], BatchRandom(KEYS[:4], 0))
