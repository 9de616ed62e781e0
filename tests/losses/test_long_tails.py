"""Losses for classes of very different sizes, against what their papers define."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from imgrec.errors import SpecError, UserError
from imgrec.losses import LOSSES, cross_entropy, effective_class_weights, log_prior, logit_adjusted_loss

COUNTS = (5000, 500, 50)


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    return torch.randn(12, 3, generator=generator, dtype=torch.float64), torch.randint(3, (12,), generator=generator)


@pytest.mark.parametrize("beta", [0.9, 0.99, 0.999, 0.9999])
def test_effective_weights_are_the_inverse_of_the_geometric_series(beta: float) -> None:
    """The effective number is the sum of beta^i over the images, equation 2 of the paper."""
    effective = np.array([sum(beta**i for i in range(count)) for count in COUNTS])
    expected = (1 / effective) / (1 / effective).sum() * len(COUNTS)
    np.testing.assert_allclose(effective_class_weights(COUNTS, beta).numpy(), expected, rtol=1e-6)


def test_effective_weights_range_from_equal_to_balanced() -> None:
    assert effective_class_weights(COUNTS, 0.0).tolist() == [1.0, 1.0, 1.0]
    nearly = effective_class_weights(COUNTS, 1 - 1e-12)
    np.testing.assert_allclose((nearly * torch.tensor(COUNTS)).numpy(), (nearly[0] * COUNTS[0]).item(), rtol=1e-5)


def test_effective_weights_in_a_spec() -> None:
    facts = {"num_classes": 3, "class_names": ("a", "b", "name"), "class_counts": COUNTS}
    for name, argument in (("cross_entropy", "class_weights"), ("focal", "alpha")):
        loss = LOSSES.build({"name": name, argument: {"name": "effective", "beta": 0.99}}, **facts)
        torch.testing.assert_close(loss.get_buffer(argument), effective_class_weights(COUNTS, 0.99))
        loss = LOSSES.build({"name": name, argument: "effective"}, **facts)
        torch.testing.assert_close(loss.get_buffer(argument), effective_class_weights(COUNTS, 0.9999))
    named = LOSSES.build({"name": "cross_entropy", "class_weights": {"name": 2.0}}, **facts)  # a class called so
    assert named.get_buffer("class_weights").tolist() == [1.0, 1.0, 2.0]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"name": "effectiv"},
            r'class_weights: expected balanced or effective, .* got "effectiv"\. Did you mean "effective"\?',
        ),
        ({"name": "effective", "betta": 0.9}, r'class_weights: effective has no argument "betta"\. Accepted: beta'),
        ({"name": "balanced", "beta": 0.9}, r'class_weights: balanced has no argument "beta"'),
        ({"name": "effective", "beta": 1.0}, r"class_weights\.beta: expected "),
        ({"name": "effective", "beta": "much"}, r"class_weights\.beta: expected a number, got 'much'"),
        ({"owl": "heavy"}, r"class_weights\.owl: expected a number, got 'heavy'"),
    ],
)
def test_invalid_rule_is_rejected_before_data(given: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=rf"^model\.loss.*{message}"):
        LOSSES.check({"name": "cross_entropy", "class_weights": given}, "model.loss", ("class_counts",))


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0, 2.0])
def test_logit_adjustment_is_a_softmax_weighted_by_the_prior(tau: float) -> None:
    """Equation 10 of the paper, and balanced softmax at tau 1: q_c ~ prior_c^tau * exp(logit_c)."""
    logits, targets = batch()
    prior = np.array(COUNTS) / sum(COUNTS)
    powers = prior**tau * np.exp(logits.numpy())
    expected = -np.log(powers / powers.sum(1, keepdims=True))[np.arange(12), targets.numpy()].mean()
    found = logit_adjusted_loss(logits, targets, log_prior(COUNTS).double(), tau)
    assert found.item() == pytest.approx(expected, rel=1e-6)


def test_smoothing_of_logit_adjustment_targets_equal_logits() -> None:
    """The smoothed part is the cross-entropy of the adjusted softmax with the prior."""
    logits, targets = batch()
    prior = np.array(COUNTS) / sum(COUNTS)
    adjusted = prior * np.exp(logits.numpy())
    log_q = np.log(adjusted / adjusted.sum(1, keepdims=True))
    expected = -0.9 * log_q[np.arange(12), targets.numpy()].mean() - 0.1 * (prior * log_q).sum(1).mean()
    for labels in (targets, F.one_hot(targets, 3).double()):
        found = logit_adjusted_loss(logits, labels, log_prior(COUNTS).double(), label_smoothing=0.1)
        assert found.item() == pytest.approx(expected, rel=1e-6)
    equal = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(
        logit_adjusted_loss(equal, torch.tensor(prior)[None], torch.tensor(prior).log(), label_smoothing=0.1), equal
    )
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-12, rtol=0)


def test_logit_adjustment_of_equal_classes_is_cross_entropy() -> None:
    logits, targets = batch()
    shares = 0.6 * F.one_hot(targets, 3).double() + 0.4 / 3
    for labels in (targets, shares):
        for smoothing in (0.0, 0.1):
            loss = LOSSES.build(
                {"name": "logit_adjusted", "label_smoothing": smoothing, "tau": 3.0}, class_counts=(7, 7, 7)
            )
            torch.testing.assert_close(loss(logits, labels), cross_entropy(logits, labels, None, smoothing))


def test_the_adjusted_optimum_is_the_balanced_posterior() -> None:
    """After training with class priors, the softmax of the logits is the posterior for equal priors."""
    likelihood = torch.tensor(
        [[0.7, 0.2, 0.1], [0.2, 0.5, 0.3]], dtype=torch.float64
    )  # of two kinds of images, by class
    prior = torch.tensor([0.90, 0.09, 0.01], dtype=torch.float64)
    posterior = likelihood * prior
    posterior = posterior / posterior.sum(1, keepdim=True)
    balanced = likelihood / likelihood.sum(1, keepdim=True)
    logits = balanced.log().requires_grad_()
    (gradient,) = torch.autograd.grad(logit_adjusted_loss(logits, posterior, prior.log()), logits)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-12, rtol=0)


def test_empty_class_is_rejected() -> None:
    with pytest.raises(UserError, match="class 1 has no training image: its logit cannot be adjusted"):
        LOSSES.build("logit_adjusted", class_counts=(3, 0))
    with pytest.raises(UserError, match="class 1 has no training image: `effective` cannot weight it"):
        effective_class_weights([3, 0])
    with pytest.raises(SpecError, match=r"^model\.loss\.tau: expected .*, got -1"):
        LOSSES.check({"name": "logit_adjusted", "tau": -1}, "model.loss", ("class_counts",))
    with pytest.raises(SpecError, match="requires the training counts"):
        LOSSES.build("logit_adjusted", "model.loss")
