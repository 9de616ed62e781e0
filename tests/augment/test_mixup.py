from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from imgrec.augment import AUGMENTATIONS, BatchRandom, Mix, cutmix, cutmix_box, mixup, to_float
from imgrec.errors import SpecError
from imgrec.losses import LOSSES

CLASSES = 5


def batch(count: int = 16) -> tuple[Tensor, Tensor]:
    """Return images of one constant value each, so that a pixel identifies its image, and their targets."""
    values = torch.arange(count, dtype=torch.uint8) * (255 // count)
    return values[:, None, None, None].expand(count, 3, 20, 24).contiguous(), torch.arange(count) % CLASSES


def random_numbers(seed: int, count: int = 16) -> BatchRandom:
    return BatchRandom(torch.arange(count) * 7919 + 3, seed)


def build(name: str, **arguments: Any) -> Mix:
    built = AUGMENTATIONS.build({"name": name, **arguments}, "t", num_classes=CLASSES)
    assert isinstance(built, Mix)
    return built


def test_mixup_equals_numpy() -> None:
    images, targets = batch()
    weight = torch.rand(16, generator=torch.Generator().manual_seed(1))
    order = torch.randperm(16, generator=torch.Generator().manual_seed(2))
    mixed, rows = mixup(images, targets, weight, order, CLASSES)
    for i in range(16):
        own, j = float(weight[i]), int(order[i])
        expected = own * images[i].numpy() / 255 + (1 - own) * images[j].numpy() / 255
        np.testing.assert_allclose(mixed[i].numpy(), expected, atol=1e-6)
        labels = own * np.eye(CLASSES)[targets[i]] + (1 - own) * np.eye(CLASSES)[targets[j]]
        np.testing.assert_allclose(rows[i].numpy(), labels, atol=1e-6)


def test_cutmix_mixes_the_targets_by_the_pixels_that_are_pasted() -> None:
    images, targets = batch()
    box = torch.tensor([[-3, 5, 10, 8]]).repeat(16, 1)
    box[1] = torch.tensor([0, 0, 20, 24])
    box[2] = torch.tensor([3, 3, 0, 9])
    order = torch.arange(16).roll(1)
    mixed, rows = cutmix(images, targets, box, order, CLASSES)
    assert mixed.dtype == torch.uint8
    for i in range(16):
        own = float((mixed[i] == images[i]).double().mean())
        labels = own * np.eye(CLASSES)[targets[i]] + (1 - own) * np.eye(CLASSES)[targets[order[i]]]
        np.testing.assert_allclose(rows[i].numpy(), labels, atol=1e-6)
    expected = images.numpy().copy()
    expected[0, :, :7, 5:13] = images[15, 0, 0, 0]
    assert np.array_equal(mixed[0].numpy(), expected[0])


def test_an_unclipped_cutmix_box_has_the_drawn_area() -> None:
    weight = torch.tensor([0.0, 0.3, 0.75, 0.99, 1.0])
    top, left, height, width = cutmix_box(weight, torch.full((5, 2), 0.5), 200, 300).double().unbind(1)
    area = height * width / (200 * 300)
    assert ((1 - weight) - area).abs().max() < 0.01
    assert bool((top >= 0).all() and (left >= 0).all())
    corner = cutmix_box(torch.tensor([0.0]), torch.zeros(1, 2), 200, 300)
    assert corner.tolist() == [[0, 0, 100, 150]]


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("name", ["mixup", "cutmix", "mixup_or_cutmix"])
def test_the_probabilities_of_every_mix_match_its_pixels(name: str, per_sample: bool) -> None:
    images, targets = batch()
    mix = build(name, per_sample=per_sample)
    values = to_float(images)[:, 0, 0, 0]
    changed = 0
    for seed in range(20):
        mixed, rows = mix(images, targets, random_numbers(seed))
        assert rows.shape == (16, CLASSES)
        torch.testing.assert_close(rows.sum(1), torch.ones(16))
        assert rows.min() >= 0
        own, share = to_float(mixed).mean(dim=(1, 2, 3)), rows.amax(1)
        # the mean of the pixels is that of the values of two images, weighted as the targets are
        orders = mix.partners(random_numbers(seed))  # type: ignore[attr-defined]
        same = targets == targets[orders]
        weight = rows.gather(1, targets[:, None])[:, 0]
        expected = values * weight + values[orders] * (1 - weight)
        torch.testing.assert_close(own[~same], expected[~same], rtol=0, atol=2e-5)
        changed += int((share < 0.999).sum())
    assert changed > 50


@pytest.mark.parametrize("name", ["mixup", "cutmix", "mixup_or_cutmix"])
def test_mixing_with_probability_zero_has_no_effect(name: str) -> None:
    images, targets = batch()
    for mix in (build(name, p=0.0), build(name)):
        mix.strength = 0.0 if mix.p else 1.0  # type: ignore[attr-defined]
        mixed, rows = mix(images, targets, random_numbers(0))
        assert torch.equal(to_float(mixed), to_float(images))
        assert torch.equal(rows, torch.eye(CLASSES)[targets])


def test_one_weight_per_batch_or_per_sample() -> None:
    images, _ = batch()
    for per_sample, kinds in ((False, 1), (True, 8)):
        mix = AUGMENTATIONS.build({"name": "mixup", "per_sample": per_sample, "alpha": 1.0}, num_classes=16)
        assert isinstance(mix, Mix)
        _, rows = mix(images, torch.arange(16), random_numbers(3))
        own = rows.diagonal()
        weights = set(own[own < 1].tolist())
        assert len(weights) >= kinds
        assert per_sample or len(weights) == 1


def test_the_weight_is_from_the_beta_distribution() -> None:
    beta = pytest.importorskip("scipy.stats").beta
    mix = build("mixup", alpha=0.4)
    weights = np.sort([float(mix.weight(mix.source(random_numbers(s)), 0.4)) for s in range(500)])  # type: ignore[attr-defined]
    distance = np.abs(beta.cdf(weights, 0.4, 0.4) - np.arange(500) / 500).max()
    assert distance < 1.95 / 500**0.5


def test_both_kinds_appear_with_their_probability() -> None:
    images, targets = batch()
    values = set(to_float(images).unique(sorted=False).tolist())  # type: ignore[no-untyped-call]
    mix = build("mixup_or_cutmix", cutmix_p=0.3, mixup_alpha=8.0)
    cut = 0
    for seed in range(300):
        mixed, _ = mix(images, targets, random_numbers(seed))
        cut += values.issuperset(mixed[:, 0, ::3, ::3].flatten().tolist())  # only a blend shows other values
    assert abs(cut / 300 - 0.3) < 4 * (0.3 * 0.7 / 300) ** 0.5


@pytest.mark.parametrize("name", LOSSES.names())
def test_every_loss_accepts_mixed_targets(name: str) -> None:
    images, targets = batch()
    facts = {"num_classes": CLASSES, "class_names": tuple("abcde"), "class_counts": (4, 3, 3, 3, 3), "logit_scale": 4.0}
    loss = LOSSES.build(name, "loss", **facts)
    _, rows = build("mixup_or_cutmix")(images, targets, random_numbers(1))
    logits = torch.randn(16, CLASSES, generator=torch.Generator().manual_seed(0)).requires_grad_()
    value = loss(logits, rows)
    value.backward()
    assert bool(value.isfinite())
    assert logits.grad is not None
    assert bool((logits.grad != 0).any())


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "mixup", "alpha": 0}, r"alpha: expected float > 0"),
        ({"name": "cutmix", "p": 2}, r"p: expected float in \[0, 1\]"),
        ({"name": "mixup", "until": 0}, r"until: expected float in \(0, 1\]"),
        ({"name": "mixup_or_cutmix", "cutmix_p": -1}, r"cutmix_p: expected float in \[0, 1\]"),
    ],
)
def test_arguments_out_of_range_are_rejected(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        AUGMENTATIONS.build(spec, "t", num_classes=3)
