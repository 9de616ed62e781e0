"""The list of `train_transforms`: its three parts, its order, its presets, and the contract of every entry."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from imgrec.augment import (
    AUGMENTATIONS,
    PRESETS,
    BatchRandom,
    BatchTransform,
    Mix,
    RandomErasing,
    TrainingPipeline,
    Transform,
    build_training_pipeline,
    check_training_transforms,
)
from imgrec.errors import SpecError, UserError
from imgrec.registry import Spec
from imgrec.utils.seeding import position_generator

FACTS: dict[str, Any] = {"image_size": 16, "in_channels": 3, "num_classes": 4}


def photos(count: int = 12, size: int = 16, channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, channels, size, size), dtype=torch.uint8, generator=generator)


def keys(count: int = 12) -> Tensor:
    return torch.arange(count) * 1_000_003 + 17


def pipeline(*specs: Spec) -> TrainingPipeline:
    return build_training_pipeline(list(specs), "data.train_transforms", **FACTS)


def built(kind: type, channels: int = 3) -> list[Any]:
    facts = {**FACTS, "in_channels": channels}
    skip = {"lighting"} if channels == 1 else set()
    entries = (AUGMENTATIONS.build(name, **facts) for name in AUGMENTATIONS.names() if name not in skip)
    return [each for each in entries if isinstance(each, kind)]


def name_of(value: object) -> str:
    return type(value).__name__


# ---------------------------------------------------------------- every entry


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("transform", built(Transform), ids=name_of)
def test_a_transform_uses_only_its_generator_and_does_not_modify_the_image(transform: Transform, channels: int) -> None:
    for height, width in ((16, 16), (40, 30)):
        image = torch.randint(0, 256, (channels, height, width), dtype=torch.uint8)
        before, state = image.clone(), torch.get_rng_state()
        first = transform(image, position_generator("a"))
        assert torch.equal(first, transform(image, position_generator("a")))
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.equal(image, before)
        assert first.dtype == torch.uint8
        assert first.shape[0] == channels


@pytest.mark.parametrize(
    "spec",
    [
        "autoaugment",
        "randaugment",
        "trivialaugment",
        "augmix",
        "elastic",
        {"name": "perspective", "p": 1.0},
        {"name": "torchvision.transforms.v2.RandomPosterize", "bits": 2},
    ],
    ids=str,
)
def test_a_torchvision_transform_changes_the_image_by_the_generators_state(spec: Spec) -> None:
    transform = pipeline("squash", spec).sample
    image = torch.arange(3 * 16 * 16).remainder(256).to(torch.uint8).view(3, 16, 16)
    drawn = [transform(image, position_generator(i)) for i in range(12)]
    assert any(not torch.equal(drawn[0], other) for other in drawn)
    assert any(not torch.equal(image, other) for other in drawn)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("number", range(len(built(BatchTransform))))
def test_a_batch_transform_draws_by_sample(number: int, dtype: torch.dtype, channels: int) -> None:
    every = built(BatchTransform, channels)
    if number >= len(every):
        pytest.skip("this one is for colour")
    transform = every[number]
    images = photos(channels=channels)
    images = images if dtype == torch.uint8 else images.float() / 255
    before, state = images.clone(), torch.get_rng_state()
    found = transform(images, BatchRandom(keys(), 0, 1))
    assert found.shape == images.shape
    assert torch.equal(images, before)
    assert torch.equal(torch.get_rng_state(), state)
    assert found.dtype in (dtype, torch.float32)
    assert float(found.min()) >= 0
    assert float(found.max()) <= (255 if found.dtype == torch.uint8 else 1)
    some = torch.tensor([7, 2, 10])
    torch.testing.assert_close(transform(images[some], BatchRandom(keys()[some], 0, 1)), found[some])
    again = transform(images, BatchRandom(keys(), 0, 2))
    if channels == 3 or name_of(transform) not in ("Saturation", "Hue", "Grayscale"):
        assert not torch.equal(found, again)


def test_the_same_image_under_other_keys_is_changed_differently() -> None:
    same = photos(1).expand(12, -1, -1, -1)
    for transform in built(BatchTransform):
        found = transform(same, BatchRandom(keys(), 0, 1))
        assert any(not torch.equal(found[0], other) for other in found), name_of(transform)


def test_strength_zero_disables_all_but_crops_and_flips() -> None:
    images = photos()
    for transform in built(BatchTransform):
        if name_of(transform) in ("RandomCrop", "HorizontalFlip", "VerticalFlip"):
            continue
        transform.strength = 0.0
        found = transform(images, BatchRandom(keys(), 0, 1))
        found = found.float() / 255 if found.dtype == torch.uint8 else found
        torch.testing.assert_close(found, images.float() / 255, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["hflip", "vflip", "random_erasing", "grayscale", "gaussian_blur", "gaussian_noise"])
def test_probabilities_are_met(name: str) -> None:
    images = photos(1).expand(3000, -1, -1, -1)
    transform = AUGMENTATIONS.build({"name": name, "p": 0.3}, **FACTS)
    assert isinstance(transform, BatchTransform)
    found = transform(images, BatchRandom(torch.arange(3000) * 31, 0))
    same = images if found.dtype == torch.uint8 else images.float() / 255
    share = float((found != same).flatten(1).any(dim=1).float().mean())
    assert abs(share - 0.3) < 4 * (0.3 * 0.7 / 3000) ** 0.5


def test_crop_positions_are_uniform() -> None:
    image = torch.arange(64, dtype=torch.uint8).view(1, 1, 8, 8) + 1
    crop = AUGMENTATIONS.build({"name": "random_crop", "padding": 2})
    assert isinstance(crop, BatchTransform)
    found = crop(image.expand(5000, -1, -1, -1), BatchRandom(torch.arange(5000) * 31, 0))
    places, counts = torch.unique(found.flatten(1), dim=0, return_counts=True)
    assert len(places) == 25
    assert float(((counts - 200.0) ** 2 / 200).sum()) < 51.2  # chi-squared with 24 degrees of freedom, 0.1 %


def test_erased_areas_and_shapes_are_within_their_limits() -> None:
    erasing = AUGMENTATIONS.build({"name": "random_erasing", "scale": [0.1, 0.3], "ratio": [0.5, 2.0]})
    assert isinstance(erasing, RandomErasing)
    box = erasing.boxes(100, 100, BatchRandom(torch.arange(4000), 1)).double()
    area, shape = box[:, 2] * box[:, 3] / 1e4, box[:, 2] / box[:, 3]
    for found, low, high in ((area, 0.095, 0.305), (shape, 0.48, 2.1)):
        assert low < found.min() < found.max() < high
    assert abs(area.mean() - 0.2) < 0.005
    assert abs(shape.log().mean()) < 0.03
    assert bool((box[:, :2] + box[:, 2:] <= 100).all())
    centre = (box[:, 0] + box[:, 2] / 2).mean()
    assert abs(centre - 50) < 1.5


# ---------------------------------------------------------------- the list


def test_a_list_is_split_by_kind() -> None:
    found = pipeline("squash", "randaugment", "hflip", "color_jitter", "mixup")
    assert [name_of(t) for t in found.sample.transforms] == ["Squash", "RandAugment"]
    assert [name_of(t) for t in found.batch] == ["HorizontalFlip", "ColorJitter"]
    assert name_of(found.mix) == "Mixup"
    assert build_training_pipeline(None, **FACTS).batch == ()


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        (
            ["hflip", "resize"],
            r"data\.t\[1\]: .*got resize, a transform of single images, after a whole",
        ),
        (["mixup", "hflip"], r"data\.t\[1\]: .*got hflip, a whole-batch transform, after mixing"),
        (["mixup", "resize"], r"data\.t\[1\]: .*got resize, a transform of single images, after mixing"),
        (["mixup", "cutmix"], r"data\.t\[1\]: expected one mixing, got cutmix as the second.*mixup_or_cutmix"),
        (["hflip", "vflop"], r'data\.t\[1\]: no augmentation is called "vflop"\. Did you mean "vflip"'),
        (["hflip", "cifar"], r"data\.t\[1\]: .*got resize \(of the preset cifar\), a transform of single images"),
        ([{"name": "hflip", "p": 1.5}], r"data\.t\[0\]\.p: expected float in \[0, 1\], got 1\.5"),
        ([{"name": "random_crop", "padding": -1}], r"data\.t\[0\]\.padding: expected int >= 0"),
        ([{"name": "random_crop", "padding_mode": "mirror"}], r"data\.t\[0\]\.padding_mode"),
        ([{"name": "color_jitter", "hue": 0.7}], r"data\.t\[0\]\.hue: expected float in \[0, 0\.5\]"),
        ([{"name": "gaussian_blur", "kernel_size": 4}], r"data\.t\[0\]: kernel_size: expected an odd number"),
        ([{"name": "affine", "shear": 90.0}], r"data\.t\[0\]\.shear: expected float in \[0, 90\)"),
        ([{"name": "randaugment", "magnitude": 31}], r"data\.t\[0\]\.magnitude: expected int in \[0, 30\]"),
        (
            ["torchvision.transforms.v2.MixUp"],
            r"data\.t\[0\]: .* one image, got torchvision's MixUp\. Use mixup",
        ),
        (["torch.nn.functional.relu"], r"data\.t\[0\]"),
        (
            [{"name": "collections.OrderedDict"}],
            r"data\.t\[0\]: expected a subclass of .*got collections\.OrderedDict",
        ),
    ],
)
def test_a_wrong_list_is_rejected_with_its_position(specs: list[Spec], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        check_training_transforms(specs, "data.t")


def test_lighting_rejects_gray_images() -> None:
    with pytest.raises(SpecError, match=r"data\.t\[0\]: lighting: expected color images, got gray images"):
        check_training_transforms(["lighting"], "data.t", in_channels=1)


def test_a_torchvision_transform_that_returns_floats_is_rejected() -> None:
    spec: Spec = {"name": "torchvision.transforms.v2.Normalize", "mean": [0.5], "std": [0.5]}
    transform = pipeline(spec, "squash").sample
    with pytest.raises((UserError, TypeError)):
        transform(photos(1)[0], position_generator(0))


@pytest.mark.parametrize("name", PRESETS.names())
def test_a_preset_accepts_any_photograph_and_has_a_docstring(name: str) -> None:
    found = build_training_pipeline(name, **{**FACTS, "image_size": 32})
    torch.manual_seed(0)
    samples = [torch.randint(0, 256, (3, 40 + 5 * i, 40 + 5 * i), dtype=torch.uint8) for i in range(4)]
    images = torch.stack([found.sample(image, position_generator(i)) for i, image in enumerate(samples)])
    seen, targets = found.apply(images, torch.arange(4), BatchRandom(keys(4), 0))
    assert seen.shape == (4, 3, 32, 32)
    assert not torch.equal(seen, images)
    assert len(targets) == 4
    doc = PRESETS.entry(name).doc
    assert "train_transforms:" in doc
    assert PRESETS.entry(name).summary.endswith(".")


def test_a_preset_can_be_an_element_of_a_list() -> None:
    found = pipeline("cifar", "mixup")
    assert name_of(found.mix) == "Mixup"
    assert [name_of(t) for t in found.batch] == ["RandomCrop", "HorizontalFlip", "Cutout"]


# ---------------------------------------------------------------- applying it


def test_a_sample_is_changed_identically_in_any_batch() -> None:
    found = pipeline({"name": "random_crop", "padding": 3}, "hflip", {"name": "color_jitter", "brightness": 0.4})
    images, targets = photos(), torch.arange(12)
    whole, _ = found.apply(images, targets, BatchRandom(keys(), 5, 2))
    for start, stop in ((0, 5), (5, 12), (3, 4)):
        part, _ = found.apply(images[start:stop], targets[start:stop], BatchRandom(keys()[start:stop], 5, 2))
        torch.testing.assert_close(part, whole[start:stop])
    other, _ = found.apply(images, targets, BatchRandom(keys(), 5, 3))
    assert not torch.equal(other, whole)


def test_an_additional_transform_does_not_change_the_draws_of_others() -> None:
    images, targets = photos(), torch.arange(12)
    crop: Spec = {"name": "random_crop", "padding": 3}
    one, _ = pipeline(crop, "hflip").apply(images, targets, BatchRandom(keys(), 0))
    two, _ = pipeline(crop, {"name": "vflip", "p": 0.0}, "hflip").apply(images, targets, BatchRandom(keys(), 0))
    assert torch.equal(one, two)


def test_two_transforms_of_one_class_draw_independently() -> None:
    images = photos()
    twice, _ = pipeline("hflip", "hflip").apply(images, torch.arange(12), BatchRandom(keys(), 0))
    assert not torch.equal(twice, images)


def test_mixing_stops_at_its_fraction() -> None:
    found = pipeline({"name": "mixup", "until": 0.75})
    images, targets = photos(), torch.arange(12) % 4
    assert isinstance(found.mix, Mix)
    assert found.apply(images, targets, BatchRandom(keys(), 0), 0.74)[1].shape == (12, 4)
    unmixed, same = found.apply(images, targets, BatchRandom(keys(), 0), 0.75)
    assert torch.equal(same, targets)
    assert torch.equal(unmixed, images)


def test_the_output_size_resizes_the_batch() -> None:
    found = pipeline("hflip")
    found.output_size = lambda progress: 8
    images, _ = found.apply(photos(), torch.arange(12), BatchRandom(keys(), 0))
    assert images.shape == (12, 3, 8, 8)
    assert float(images.min()) >= 0
    assert float(images.max()) <= 1


def test_the_strength_is_a_function_of_progress() -> None:
    found = pipeline({"name": "brightness", "amount": 0.8})
    found.strength = lambda progress: progress
    images, draws = photos(), BatchRandom(keys(), 0)
    changes = []
    for progress in (0.0, 0.5, 1.0):
        seen, _ = found.apply(images, torch.arange(12), draws, progress)
        changes.append(float((seen - images.float() / 255).abs().mean()))
    assert changes[0] < 1e-6
    assert changes[0] < changes[1] < changes[2]


@pytest.mark.parametrize("number", range(len(built(BatchTransform))))
def test_the_code_path_of_a_gpu_equals_that_of_a_cpu(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    transform = built(BatchTransform)[number]
    first = transform(photos(), BatchRandom(keys(), 0, 1))
    monkeypatch.setattr("imgrec.augment.base.is_gather_faster", lambda images: False)
    second = transform(photos(), BatchRandom(keys(), 0, 1))
    assert first.dtype == second.dtype
    torch.testing.assert_close(first, second, rtol=0, atol=1e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("name", PRESETS.names())
def test_a_gpu_computes_the_same_as_a_cpu(name: str) -> None:
    found = build_training_pipeline([name], **{**FACTS, "image_size": 32})
    images, targets = photos(size=32), torch.arange(12) % 4
    here, rows = found.apply(images, targets, BatchRandom(keys(), 0, 1))
    there, rows_there = found.apply(images.cuda(), targets.cuda(), BatchRandom(keys().cuda(), 0, 1))
    torch.testing.assert_close(there.cpu().float(), here.float(), rtol=0, atol=1e-3)
    torch.testing.assert_close(rows_there.cpu(), rows, rtol=0, atol=1e-5)
