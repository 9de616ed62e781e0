"""Normalizations of values whose squares are 0 or infinite in float32."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imgrec.compress.pruning.blocks import _influences
from imgrec.compress.pruning.channel_importance import _CRITERIA
from imgrec.losses.distillation.features import attention_map
from imgrec.models.heads.linear import HEADS
from imgrec.optim.gradient_clipping import clip_adaptively_, unit_norms
from imgrec.optim.max_norm import project_max_norm_
from imgrec.optim.optimizers.sam import sam_perturbation
from imgrec.regularizers.contrastive import supervised_contrastive
from imgrec.regularizers.decorrelation import koleo_penalty
from imgrec.regularizers.input_gradient import jacobian_penalty
from imgrec.regularizers.orthogonality import largest_singular_values
from imgrec.regularizers.pairwise import cosine_similarities
from imgrec.regularizers.triplet import Triplet
from imgrec.regularizers.virtual_adversarial import scale_to_length
from imgrec.types import StepOutput
from imgrec.utils.vectors import unit_length

LABELS = torch.tensor([0, 0, 1, 1])


def cosine_head(features: Tensor, weight: Tensor) -> Tensor:
    head = HEADS.build("cosine", feature_dim=8, num_classes=4)
    with torch.no_grad():
        head.get_parameter("weight").copy_(weight)
    found: Tensor = head(features)
    return found


def triplet(features: Tensor) -> Tensor:
    images = torch.zeros(4, 1, 1, 1)
    output = StepOutput(images=images, targets=LABELS, logits=torch.zeros(4, 2), features=features, epoch=0)
    found: Tensor = Triplet(normalize=True)(output, nn.Identity())
    return found


def projected(weight: Tensor) -> Tensor:
    """Return the direction after the projection. A weight below the limit keeps its length."""
    project_max_norm_([found := weight.clone()], limit=1.0)
    assert (unit_norms(found) <= unit_norms(weight).clamp(max=1.0001)).all()
    return unit_length(found)


def clipped(gradient: Tensor) -> Tensor:
    """Return the direction after clipping to 0.1. A shorter gradient keeps its length."""
    clip_adaptively_([found := gradient.clone()], [torch.eye(4, 8)], factor=0.1)
    torch.testing.assert_close(unit_norms(found), unit_norms(gradient).clamp(max=0.1))
    return unit_length(found)


def influence(values: Tensor) -> Tensor:
    model = nn.Sequential(layer := nn.Linear(8, 8, bias=False))
    with torch.no_grad():
        layer.weight.copy_(torch.arange(64.0).view(8, 8))
        return torch.tensor(_influences(model, ["0"], values)["0"])


INVARIANT: dict[str, Callable[[Tensor], Tensor]] = {
    "virtual_adversarial": lambda x: scale_to_length(x.view(2, 1, 4, 4), 8 / 255),
    "sam": lambda x: sam_perturbation([x, x], [x, -x], 0.05)[0],
    "asam": lambda x: sam_perturbation([torch.ones_like(x)], [x], 0.5, eta=0.01)[0],
    "supervised_contrastive": lambda x: supervised_contrastive(x, LABELS),
    "cosine similarities": cosine_similarities,
    "koleo": koleo_penalty,
    "triplet": triplet,
    "jacobian": lambda x: jacobian_penalty(nn.Flatten(), torch.ones(4, 1, 2, 4), x[None]),
    "attention": lambda x: attention_map(x.view(2, 4, 2, 2)),
    "cosine head, features": lambda x: cosine_head(x, torch.eye(4, 8)),
    "cosine head, weight": lambda x: cosine_head(torch.ones(3, 8), x),
    "spectral norm": lambda x: largest_singular_values(x[None]) / x.abs().max(),
    "max norm": projected,
    "adaptive clipping": clipped,
    "dropped blocks": influence,
}


@pytest.mark.parametrize("scale", [1e-30, 1e-25, 1e30])
@pytest.mark.parametrize("name", INVARIANT)
def test_result_is_scale_invariant(name: str, scale: float) -> None:
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    expected = INVARIANT[name](x)
    assert (expected != 0).any()
    torch.testing.assert_close(INVARIANT[name](x * scale), expected, rtol=1e-5, atol=1e-6)


def test_zeros_stay_and_have_a_finite_gradient() -> None:
    zeros = torch.zeros(2, 3, requires_grad=True)
    assert unit_length(zeros).tolist() == [[0.0] * 3] * 2
    assert scale_to_length(torch.zeros(1, 1, 2, 2), 0.5).abs().max() == 0
    assert sam_perturbation([zeros], [torch.zeros(2, 3)], 0.5)[0].abs().max() == 0
    (gradient,) = torch.autograd.grad(unit_length(zeros).sum(), zeros)
    assert gradient.isfinite().all()


def test_the_gradient_is_that_of_normalize() -> None:
    x = torch.randn(4, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(unit_length, (x,), fast_mode=True)
    torch.testing.assert_close(unit_length(x), F.normalize(x, dim=1))


def test_squares_of_small_weights_and_gradients_keep_their_ranks() -> None:
    weight = torch.tensor([1.0, 2.0, 3.0]) * 1e-13
    for name in ("l2", "taylor"):
        found = _CRITERIA[name].score(weight, weight)
        assert found.argsort().tolist() == [0, 1, 2]
        assert (found > 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_adaptive_clipping_leaves_short_gradients_of_every_precision(dtype: torch.dtype) -> None:
    """A gradient of 3e-6 is below the limit of 1e-5 and below the smallest normal number of float16, 6e-5."""
    gradients = torch.tensor([[3e-6, 0.0], [1.0, 0.0], [0.0, 0.0]]).to(dtype)
    clip_adaptively_([found := gradients.clone()], [torch.zeros(3, 2, dtype=dtype)], factor=0.01, eps=1e-3)
    expected = torch.tensor([[3e-6, 0.0], [1e-5, 0.0], [0.0, 0.0]]).to(dtype)
    torch.testing.assert_close(found.float(), expected.float(), rtol=0.01, atol=6e-8)
