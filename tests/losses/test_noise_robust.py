"""Losses for noisy labels, against what their papers define, written out in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from imgrec.errors import SpecError
from imgrec.losses import (
    LOSSES,
    bootstrapped_cross_entropy,
    cross_entropy,
    generalized_cross_entropy,
    symmetric_cross_entropy,
)

WEIGHTS = torch.tensor([0.5, 1.0, 2.0, 1.0, 3.0], dtype=torch.float64)


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    return 2 * torch.randn(16, 5, generator=generator, dtype=torch.float64), torch.randint(
        5, (16,), generator=generator
    )


def probabilities(logits: Tensor) -> Any:
    powers = np.exp(logits.detach().numpy())
    return powers / powers.sum(1, keepdims=True)


def shares() -> Tensor:
    _, targets = batch()
    return (0.7 * F.one_hot(targets, 5) + 0.3 * F.one_hot(targets.flip(0), 5)).double()


# ---------------------------------------------------------------- generalized cross-entropy


@pytest.mark.parametrize("q", [0.1, 0.7, 1.0])
def test_generalized_cross_entropy_is_the_box_cox_transformation(q: float) -> None:
    logits, targets = batch()
    p = probabilities(logits)
    losses = (1 - p**q) / q
    picked = losses[np.arange(16), targets.numpy()]
    assert generalized_cross_entropy(logits, targets, q).item() == pytest.approx(picked.mean(), rel=1e-9)
    weights = WEIGHTS.numpy()[targets.numpy()]
    weighted = (weights * picked).sum() / weights.sum()
    assert generalized_cross_entropy(logits, targets, q, WEIGHTS).item() == pytest.approx(weighted, rel=1e-9)
    mixture = (shares().numpy() * losses).sum(1).mean()
    assert generalized_cross_entropy(logits, shares(), q).item() == pytest.approx(mixture, rel=1e-9)


def test_generalized_cross_entropy_lies_between_the_two() -> None:
    logits, targets = batch()
    torch.testing.assert_close(generalized_cross_entropy(logits, targets, 1e-9), cross_entropy(logits, targets))
    absolute = np.abs(probabilities(logits) - F.one_hot(targets, 5).numpy()).sum(1).mean()
    assert generalized_cross_entropy(logits, targets, 1.0).item() == pytest.approx(absolute / 2, rel=1e-9)


def test_unlikely_label_has_smaller_gradient() -> None:
    """The gradient is that of cross-entropy times p[target]^q."""
    logits, targets = batch()
    logits.requires_grad_()
    (ours,) = torch.autograd.grad(generalized_cross_entropy(logits, targets, 0.7), logits)
    (theirs,) = torch.autograd.grad(cross_entropy(logits, targets), logits)
    belief = torch.tensor(probabilities(logits)[np.arange(16), targets.numpy()])
    torch.testing.assert_close(ours, theirs * belief[:, None] ** 0.7)


def test_the_absolute_error_is_symmetric_and_cross_entropy_is_not() -> None:
    """The sum over all labels is constant for any logits (Ghosh et al., 2017)."""
    logits, _ = batch()
    every = [torch.full((16,), c) for c in range(5)]
    total = sum(generalized_cross_entropy(logits, labels, 1.0) for labels in every)
    assert float(total) == pytest.approx(4.0, rel=1e-12)
    assert float(sum(cross_entropy(logits, labels) for labels in every)) > 9.0


# ---------------------------------------------------------------- symmetric cross-entropy


def test_symmetric_cross_entropy_is_its_two_parts() -> None:
    logits, targets = batch()
    q = probabilities(logits)
    for labels, p in ((targets, F.one_hot(targets, 5).numpy()), (shares(), shares().numpy())):
        with np.errstate(divide="ignore"):
            log_p = np.maximum(np.log(p), -4.0)
        forwards, backwards = -(p * np.log(q)).sum(1).mean(), -(q * log_p).sum(1).mean()
        found = symmetric_cross_entropy(logits, labels, alpha=0.3, beta=0.7)
        assert found.item() == pytest.approx(0.3 * forwards + 0.7 * backwards, rel=1e-9)


def test_the_reverse_part_is_bounded_by_its_logarithm_of_zero() -> None:
    """The reverse part is -A (1 - q[target]) for indices, section 3.2 of the paper."""
    logits, targets = batch()
    doubt = 1 - probabilities(logits)[np.arange(16), targets.numpy()]
    for log_zero in (-4.0, -6.0):
        loss = LOSSES.build({"name": "symmetric_cross_entropy", "alpha": 0, "log_zero": log_zero})
        assert loss(logits, targets).item() == pytest.approx(-log_zero * doubt.mean(), rel=1e-9)


def test_class_weights_weigh_the_images_in_both_parts() -> None:
    logits, targets = batch()
    q = probabilities(logits)[np.arange(16), targets.numpy()]
    weights = WEIGHTS.numpy()[targets.numpy()]
    expected = (weights * (0.1 * -np.log(q) + 4 * (1 - q))).sum() / weights.sum()
    found = symmetric_cross_entropy(logits, targets, class_weights=WEIGHTS)
    assert found.item() == pytest.approx(expected, rel=1e-9)


# ---------------------------------------------------------------- bootstrapping


@pytest.mark.parametrize(("kind", "beta"), [("soft", None), ("hard", None), ("soft", 0.6), ("hard", 0.6)])
def test_bootstrapping_mixes_prediction_into_target(kind: Any, beta: float | None) -> None:
    logits, targets = batch()
    q = probabilities(logits)
    own = q if kind == "soft" else np.eye(5)[q.argmax(1)]
    part = beta if beta is not None else {"soft": 0.95, "hard": 0.8}[kind]
    for labels, p in ((targets, F.one_hot(targets, 5).numpy()), (shares(), shares().numpy())):
        expected = -((part * p + (1 - part) * own) * np.log(q)).sum(1).mean()
        assert bootstrapped_cross_entropy(logits, labels, kind, beta).item() == pytest.approx(expected, rel=1e-9)


def test_soft_bootstrapping_is_cross_entropy_with_a_penalty_on_the_entropy() -> None:
    """Reed et al., section 3.1.2, after Grandvalet and Bengio: gradients too."""
    logits, targets = batch()
    logits.requires_grad_()
    q = logits.softmax(1)
    entropy = -(q * q.log()).sum(1).mean()
    expected = 0.9 * cross_entropy(logits, targets) + 0.1 * entropy
    found = bootstrapped_cross_entropy(logits, targets, "soft", 0.9)
    torch.testing.assert_close(found, expected)
    ours, theirs = (torch.autograd.grad(value, logits)[0] for value in (found, expected))
    torch.testing.assert_close(ours, theirs)


def test_bootstrapping_without_prediction_is_cross_entropy() -> None:
    logits, targets = batch()
    for kind in ("soft", "hard"):
        loss = LOSSES.build({"name": "bootstrapping", "kind": kind, "beta": 1.0})
        torch.testing.assert_close(loss(logits, targets), cross_entropy(logits, targets))


# ---------------------------------------------------------------- what a wrong label does


ROBUST = ["generalized_cross_entropy", "symmetric_cross_entropy", {"name": "bootstrapping", "beta": 0.3}]


@pytest.mark.parametrize("spec", ROBUST, ids=str)
def test_wrong_label_of_confident_image_has_smaller_gradient(spec: Any) -> None:
    """A confident image with a wrong label has a smaller gradient than an uncertain image with a right one."""
    loss = LOSSES.build(spec)

    def push(logits: list[float], label: int) -> float:
        given = torch.tensor([logits], requires_grad=True)
        (gradient,) = torch.autograd.grad(loss(given, torch.tensor([label])), given)
        return float(gradient.norm())

    assert push([6.0, 0.0, 0.0], 1) < push([0.0, 0.0, 0.0], 1)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "generalized_cross_entropy", "q": 0}, "q: expected .*, got 0"),
        ({"name": "generalized_cross_entropy", "q": 1.1}, "q: expected .*, got 1.1"),
        ({"name": "symmetric_cross_entropy", "alpha": -1}, "alpha: expected "),
        ({"name": "symmetric_cross_entropy", "alpha": 0, "beta": 0}, "beta: expected "),
        ({"name": "symmetric_cross_entropy", "log_zero": 0}, "log_zero: expected "),
        ({"name": "bootstrapping", "beta": 0}, "beta: expected "),
        ({"name": "generalized_cross_entropy", "class_weights": [-1.0]}, r"class_weights\[0\]: expected "),
    ],
)
def test_out_of_range_values_are_rejected(spec: dict[str, Any], message: str) -> None:
    for call in (LOSSES.check, LOSSES.build):
        with pytest.raises(SpecError, match=rf"^model\.loss.*{message}"):
            call(spec, "model.loss")


def test_unknown_kind_is_rejected() -> None:
    with pytest.raises(SpecError, match=r"^model\.loss\.kind: expected .*soft.*hard.*, got 'sof'"):
        LOSSES.check({"name": "bootstrapping", "kind": "sof"}, "model.loss")
