from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from imgrec.augment import VIEWS, TestTimeAugmentation
from imgrec.errors import SpecError, UserError


def images(size: int = 16) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (3, 3, size, size), dtype=torch.uint8, generator=generator)


def linear(views: Tensor) -> Tensor:
    """Return the logits of a model of the left half only, so that a mirrored image differs."""
    left = views.float()[..., : views.shape[-1] // 2].mean(dim=(2, 3))
    return left / (255 if views.dtype == torch.uint8 else 1) * 4


@pytest.mark.parametrize(("average", "power"), [("probabilities", 1), ("logits", 0)])
def test_the_prediction_is_the_mean_over_the_views(average: Any, power: int) -> None:
    found = TestTimeAugmentation("hflip", average)(linear, images())
    first, second = linear(images()).softmax(1), linear(images().flip(-1)).softmax(1)
    expected = (first + second) / 2 if power else (first * second).sqrt()
    torch.testing.assert_close(found.softmax(1), expected / expected.sum(1, keepdim=True))


def test_the_mean_of_probabilities_is_finite_for_certain_predictions() -> None:
    sure, unsure = torch.tensor([[1000.0, 0.0]]), torch.tensor([[0.0, 0.0]])
    found = TestTimeAugmentation("hflip").combine([sure, unsure])
    assert found.isfinite().all()
    torch.testing.assert_close(found.softmax(1), torch.tensor([[0.75, 0.25]]))
    assert math.isclose(float(found.exp().sum()), 1.0, rel_tol=1e-6)


def test_views_are_combined_with_one_another() -> None:
    views = TestTimeAugmentation(["hflip", "five_crop"]).all_views(images())
    assert len(views) == 12
    assert torch.equal(views[0], images())
    assert torch.equal(views[1], images().flip(-1))
    for a in range(12):
        for b in range(a):
            assert not torch.equal(views[a].float(), views[b].float())


def test_five_crops_are_the_corners_and_the_center() -> None:
    grey = torch.full((1, 1, 16, 16), 0.5)
    for place, (row, column) in enumerate([(0, 0), (0, 15), (15, 0), (15, 15), (8, 8)]):
        spot = grey.clone()
        spot[..., row, column] = 1.0
        crops = VIEWS.build({"name": "five_crop", "keep": 0.5})(spot)
        assert [bool(crop.max() > 0.6) for crop in crops][place]
        assert all(crop.shape == (1, 1, 16, 16) for crop in crops)


def test_scales_and_the_error_of_a_model_with_a_fixed_size() -> None:
    tta = TestTimeAugmentation({"name": "scales", "scales": [0.5, 2.0]})
    assert [view.shape[-1] for view in tta.all_views(images())] == [16, 8, 32]

    def strict(views: Tensor) -> Tensor:
        if views.shape[-1] != 16:
            raise RuntimeError("Input height (8) doesn't match model (16)")
        return linear(views)

    with pytest.raises(UserError, match=r"tta: expected a model that accepts images of 8 x 8 pixels as well as"):
        tta(strict, images())


@pytest.mark.parametrize("name", VIEWS.names())
def test_every_view_returns_images_and_does_not_modify_its_input(name: str) -> None:
    given = images()
    before = given.clone()
    for view in VIEWS.build(name)(given):
        assert view.shape[:2] == (3, 3)
        assert view.dtype == torch.uint8 or (0 <= float(view.min()) <= float(view.max()) <= 1)
    assert torch.equal(given, before)
    assert VIEWS.entry(name).summary.endswith(".")


@pytest.mark.parametrize(
    ("views", "message"),
    [
        ("hflp", r'tta: no view is called "hflp"\. Did you mean "hflip"'),
        ({"name": "five_crop", "keep": 1.0}, r"tta\.keep: expected float in \(0, 1\)"),
        ({"name": "scales", "scales": []}, "tta: scales: expected at least one scale"),
    ],
)
def test_wrong_views_are_rejected(views: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        TestTimeAugmentation(views)


def test_a_wrong_average_is_rejected() -> None:
    with pytest.raises(UserError, match="expected the average probabilities or logits"):
        TestTimeAugmentation("hflip", "votes")  # type: ignore[arg-type]
