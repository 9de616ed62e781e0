from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from imgrec.errors import SpecError, UserError
from imgrec.regularizers import REGULARIZERS, Orthogonality, SpectralNorm, largest_singular_values, weight_matrices
from imgrec.types import StepOutput

OUTPUT = StepOutput(torch.zeros(1), torch.zeros(1), torch.zeros(1, 2), torch.zeros(1, 2), epoch=0)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 12, 3, groups=4),
        nn.Conv2d(12, 12, 3, groups=12),
        nn.ConvTranspose2d(12, 4, 2, groups=2),
        nn.Linear(4, 7),
    )


def matrices(model: nn.Module) -> list[np.ndarray]:
    """Return the matrix of each group of each layer, with one filter per row."""
    found = []
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            weight = layer.weight.detach().double().numpy()
            for part in np.split(weight, layer.groups):
                rows = part.transpose(1, 0, 2, 3) if isinstance(layer, nn.ConvTranspose2d) else part
                found.append(rows.reshape(len(rows), -1))
        elif isinstance(layer, nn.Linear):
            found.append(layer.weight.detach().double().numpy())
    return found


def test_soft_orthogonality_is_that_of_the_singular_values() -> None:
    model = network()
    expected = sum(((np.linalg.svd(m, compute_uv=False) ** 2 - 1) ** 2).sum() for m in matrices(model))
    assert Orthogonality()(OUTPUT, model).item() == pytest.approx(expected, rel=1e-4)


def test_srip_is_the_farthest_singular_value() -> None:
    model = network()
    expected = sum(np.abs(np.linalg.svd(m, compute_uv=False) ** 2 - 1).max() for m in matrices(model))
    assert Orthogonality("srip")(OUTPUT, model).item() == pytest.approx(expected, rel=0.02)


def test_the_spectral_norm_is_numpys() -> None:
    model = network()
    expected = sum(np.linalg.norm(m, 2) ** 2 / 2 for m in matrices(model))
    found = SpectralNorm(steps=10)(OUTPUT, model).item()
    assert found == pytest.approx(expected, rel=0.02)
    assert found <= expected * (1 + 1e-5)
    assert SpectralNorm(steps=500)(OUTPUT, model).item() == pytest.approx(expected, rel=1e-4)


def test_its_gradient_is_the_leading_pair_of_singular_vectors() -> None:
    weight = torch.randn(1, 5, 9, generator=torch.Generator().manual_seed(0), requires_grad=True)
    (gradient,) = torch.autograd.grad(largest_singular_values(weight, steps=200).sum(), weight)
    left, _, right = torch.linalg.svd(weight.detach()[0])
    torch.testing.assert_close(gradient[0], torch.outer(left[:, 0], right[0]), rtol=1e-3, atol=1e-4)


def test_a_zero_weight_has_no_nan() -> None:
    weight = torch.zeros(1, 3, 4, requires_grad=True)
    value = largest_singular_values(weight).sum()
    (gradient,) = torch.autograd.grad(value, weight)
    assert value == 0
    assert torch.isfinite(gradient).all()


def test_orthonormal_filters_are_what_it_leads_to() -> None:
    model = nn.Conv2d(3, 8, 3)
    penalty = Orthogonality()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(100):
        optimizer.zero_grad()
        penalty(OUTPUT, model).backward()
        optimizer.step()
    rows = model.weight.detach().flatten(1)
    torch.testing.assert_close(rows @ rows.T, torch.eye(8), atol=0.01, rtol=0)


def test_a_scope_and_what_is_frozen() -> None:
    model = network()
    (first, *_) = matrices(model)
    assert SpectralNorm(500, scope="0")(OUTPUT, model).item() == pytest.approx(
        np.linalg.norm(first, 2) ** 2 / 2, rel=1e-4
    )
    model[0].requires_grad_(False)
    assert SpectralNorm(scope="0")(OUTPUT, model).item() == 0
    assert len(weight_matrices(model)) == 4
    for make in (Orthogonality, SpectralNorm):
        with pytest.raises(UserError, match='the pattern "7" matches no parameter'):
            make(scope="7").check_model(model)
        with pytest.raises(UserError, match="no weight of a convolution or a linear layer in the scope"):
            make(scope="1").check_model(model)


def test_a_weight_that_is_computed_counts_as_it_is_computed() -> None:
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))
    weight: Tensor = layer.weight.detach()
    assert SpectralNorm(300)(OUTPUT, layer).item() == pytest.approx(torch.linalg.matrix_norm(weight, 2).item() ** 2 / 2)


def test_zero_steps_are_rejected() -> None:
    with pytest.raises(SpecError, match=r"^r\.steps: expected .*, got 0"):
        REGULARIZERS.check({"name": "spectral_norm", "steps": 0}, "r")
    with pytest.raises(SpecError, match=r"^r\.kind: expected"):
        REGULARIZERS.check({"name": "orthogonality", "kind": "hard"}, "r")


@pytest.mark.parametrize(("steps", "low"), [(10, 0.075), (40, 0.022)])
def test_the_largest_singular_value_of_random_matrices_is_low_by_what_is_documented(steps: int, low: float) -> None:
    generator = torch.Generator().manual_seed(0)
    for rows, columns in ((64, 576), (256, 576), (192, 768), (512, 512)):
        matrix = torch.randn(rows, columns, generator=generator)
        found = largest_singular_values(matrix[None], steps) / torch.linalg.matrix_norm(matrix, 2)
        assert 1 - low < found.item() <= 1 + 1e-5
