from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imgrec.errors import SpecError
from imgrec.regularizers import FGSM, PGD, REGULARIZERS, VirtualAdversarial, projected_ascent
from imgrec.regularizers.virtual_adversarial import scale_to_length
from imgrec.types import StepOutput

LABELS = torch.tensor([0, 1, 2, 1])


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 3))


def images() -> Tensor:
    return torch.rand(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))


def step(model: nn.Module, pixels: Tensor, targets: Tensor = LABELS) -> StepOutput:
    logits = model(pixels)
    return StepOutput(pixels, targets, logits, logits, epoch=0)


def objective(logits: Tensor) -> Tensor:
    return F.cross_entropy(logits, LABELS, reduction="sum")


# ---------------------------------------------------------------- FGSM and PGD


def test_fgsm_on_a_linear_network_is_known() -> None:
    """The margin of a linear network decreases by epsilon times the L1 norm of the weight difference."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    pixels = torch.rand(6, 3, 2, 2) * 0.8 + 0.1  # no pixel meets the end of its range
    targets = torch.tensor([0, 1, 0, 1, 1, 0])
    logits, weight = model(pixels), model.get_parameter("1.weight")
    sign = 1 - 2 * targets.float()
    margins = sign * (logits[:, 0] - logits[:, 1]) - 8 / 255 * (weight[0] - weight[1]).abs().sum()
    expected = F.softplus(-margins).mean()
    torch.testing.assert_close(FGSM(epsilon=8)(step(model, pixels, targets), model), expected)


def test_images_stay_in_the_box_and_in_their_range() -> None:
    for start in (False, True):
        moved = projected_ascent(network(), images(), objective, 0.1, 0.05, steps=5, random_start=start)
        assert not moved.requires_grad
        assert (moved - images()).abs().max() <= 0.1 + 1e-6
        assert moved.min() >= 0
        assert moved.max() <= 1


def test_images_are_attacked_independently() -> None:
    model = network()
    together = projected_ascent(model, images(), objective, 0.1, 0.02, steps=5)
    alone = projected_ascent(
        model, images()[2:3], lambda logits: F.cross_entropy(logits, LABELS[2:3]), 0.1, 0.02, steps=5
    )
    torch.testing.assert_close(together[2:3], alone)


@pytest.mark.parametrize("seed", range(3))
def test_more_steps_find_a_larger_loss(seed: int) -> None:
    model = network(seed)
    pixels = images() * 0.6 + 0.2
    losses = [
        objective(model(projected_ascent(model, pixels, objective, 0.1, size, steps))).item()
        for size, steps in ((0.0, 1), (0.1, 1), (0.25 / 20, 20))
    ]
    assert losses[0] < losses[1]
    assert losses[2] > losses[1] - 1e-3
    random = pixels + 0.1 * torch.empty_like(pixels).uniform_(-1, 1).sign()
    assert losses[1] > objective(model(random)).item()


def test_steps_are_in_grey_levels() -> None:
    assert FGSM(epsilon=6.0).step_size == 6.0
    assert FGSM(epsilon=6.0, random_start=True).step_size == 7.5
    assert PGD(epsilon=8.0, steps=10).step_size == 2.0
    assert PGD(epsilon=8.0, steps=10, step_size=1.0).step_size == 1.0
    levels = (images() * 255).to(torch.uint8)
    torch.manual_seed(0)
    model = network()
    moved = projected_ascent(model, levels, objective, 3 / 255, 3 / 255) * 255
    assert (moved - levels).abs().max().item() == pytest.approx(3, abs=1e-3)


def test_the_loss_is_the_one_that_is_named() -> None:
    model = network()
    spec = {"name": "fgsm", "epsilon": 4, "loss": {"name": "cross_entropy", "label_smoothing": 0.2}}
    made = REGULARIZERS.build(spec, num_classes=3)
    moved = projected_ascent(
        model, images(), lambda x: F.cross_entropy(x, LABELS, label_smoothing=0.2), 4 / 255, 4 / 255
    )
    expected = F.cross_entropy(model(moved), LABELS, label_smoothing=0.2)
    torch.testing.assert_close(made(step(model, images()), model), expected)


class Centred(nn.Module):
    """A linear network on pixels that are counted from grey."""

    def __init__(self, pixels: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(pixels, 2)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layer(10 * (images.flatten(1) - 0.5))
        return logits


def test_adversarial_training_is_robust() -> None:
    """One strong pixel is right in nine of ten images. The weak ones are always right, but inverted by a small step."""
    torch.manual_seed(0)
    targets = torch.randint(2, (256,))
    side = 2 * targets.float() - 1
    right = torch.rand(256) < 0.9
    strong = 0.5 + 0.2 * side.where(right, -side)
    weak = 0.5 + 0.02 * side[:, None].expand(256, 63)
    pixels = torch.cat([strong[:, None], weak], dim=1).view(256, 1, 8, 8)

    def accuracies(penalty: nn.Module | None) -> tuple[float, float]:
        """Return the accuracy on clean and on attacked images."""
        model = Centred(64)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
        for _ in range(150):
            output = step(model, pixels, targets)
            loss = F.cross_entropy(output.logits, targets) if penalty is None else penalty(output, model)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        attacked = projected_ascent(model, pixels, lambda logits: F.cross_entropy(logits, targets), 0.05, 0.05)
        clean, fooled = ((model(each).argmax(1) == targets).float().mean().item() for each in (pixels, attacked))
        return clean, fooled

    assert accuracies(None) == (1.0, 0.0)
    assert accuracies(PGD(epsilon=0.05 * 255, steps=3)) == pytest.approx([right.float().mean().item()] * 2)


# ---------------------------------------------------------------- virtual adversarial


def test_a_length_is_the_root_mean_square_of_the_pixels() -> None:
    lengths = scale_to_length(torch.randn(3, 2, 4, 4), 0.25).square().mean((1, 2, 3)).sqrt()
    torch.testing.assert_close(lengths, torch.full((3,), 0.25))
    assert not scale_to_length(torch.zeros(1, 1, 2, 2), 0.25).any()


def test_the_direction_is_the_one_that_changes_predictions_most() -> None:
    """The direction of a linear network is the weight difference, and its divergence has a closed form."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    pixels = torch.rand(5, 3, 2, 2)
    weight = model.get_parameter("1.weight").detach()
    along = (weight[0] - weight[1]).view(1, 3, 2, 2)
    moved = [pixels + sign * scale_to_length(along, 8 / 255) for sign in (1, -1)]
    p = model(pixels).detach()
    kl = torch.stack([(p.softmax(1) * (p.log_softmax(1) - model(each).log_softmax(1))).sum(1) for each in moved])
    torch.manual_seed(1)
    found = VirtualAdversarial(epsilon=8, iterations=3)(step(model, pixels), model).item()
    assert kl.amin(0).mean().item() * 0.999 <= found <= kl.amax(0).mean().item() * 1.001


def test_dropout_alone_is_no_difference() -> None:
    """The compared passes use the same dropout, so a step of size zero gives no divergence."""
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(75, 3))
    penalty = VirtualAdversarial(epsilon=1e-3)(step(model, images()), model)
    assert abs(penalty.item()) < 1e-5
    assert VirtualAdversarial(epsilon=50)(step(model, images()), model).item() > 1e-3


def test_labels_are_not_used() -> None:
    model = network()
    torch.manual_seed(0)
    one = VirtualAdversarial()(step(model, images()), model)
    torch.manual_seed(0)
    other = VirtualAdversarial()(step(model, images(), LABELS.roll(1)), model)
    assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "fgsm", "epsilon": 0}, "epsilon: expected .*, got 0"),
        ({"name": "pgd", "epsilon": 300}, "epsilon: expected .*, got 300"),
        ({"name": "pgd", "steps": 0}, "steps: expected .*, got 0"),
        ({"name": "pgd", "step_size": -1}, "step_size: expected .*, got -1"),
        ({"name": "pgd", "loss": "cross_entropi"}, r'^r\.loss: no loss is called "cross_entropi"\. Did you mean'),
        ({"name": "virtual_adversarial", "trial": 0}, "trial: expected "),
        ({"name": "virtual_adversarial", "iterations": 0}, "iterations: expected .*, got 0"),
    ],
)
def test_invalid_values_are_rejected(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        REGULARIZERS.check(spec, "r")
