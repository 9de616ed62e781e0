from __future__ import annotations

import pytest
import torch

from imgrec.errors import SpecError, UserError
from imgrec.models import Classifier, build_classifier, check_classifier
from imgrec.types import DataFacts

FACTS = DataFacts(("a", "b", "c"), (1, 1, 1), image_size=32)
BACKBONE: dict[str, object] = {"name": "resnet18", "layers": [1, 1, 1, 1], "channels": [8, 16, 16, 16], "stem_width": 8}


@pytest.fixture(scope="module")
def model() -> Classifier:
    torch.manual_seed(0)
    return build_classifier(BACKBONE, "linear", "imagenet", FACTS).eval()


def test_uint8_and_float_images_have_equal_logits(model: Classifier) -> None:
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    torch.testing.assert_close(model(images), model(images.float() / 255))
    torch.testing.assert_close(model(images), model(images.double() / 255))


def test_normalization_formula(model: Classifier) -> None:
    images = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = ((images.permute(0, 2, 3, 1) / 255 - mean) / std).permute(0, 3, 1, 2)
    torch.testing.assert_close(model.normalize(images), expected)


def test_forward_all_equals_separate_passes(model: Classifier) -> None:
    images = torch.rand(2, 3, 32, 32)
    logits, features, auxiliary = model.forward_all(images)
    assert torch.equal(logits, model(images))
    assert torch.equal(features, model.forward_features(images))
    assert torch.equal(logits, model.head(features))
    assert auxiliary == ()


def test_other_integer_types_raise(model: Classifier) -> None:
    with pytest.raises(UserError, match="int64"):
        model(torch.zeros(1, 3, 32, 32, dtype=torch.int64))


def test_state_dict_contains_mean_and_std(model: Classifier) -> None:
    other = build_classifier(BACKBONE, "linear", {"mean": [0.1] * 3, "std": [0.2] * 3}, FACTS).eval()
    other.load_state_dict(model.state_dict())
    images = torch.rand(1, 3, 32, 32)
    assert torch.equal(other(images), model(images))


def test_channels_last_and_bfloat16_work(model: Classifier) -> None:
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    expected = model(images)
    strided = images.contiguous(memory_format=torch.channels_last)
    assert model.normalize(strided).is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(model(strided), expected, rtol=1e-4, atol=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(model(images).float(), expected, rtol=0.1, atol=0.1)


def test_exported_program_agrees_on_another_batch_size(model: Classifier) -> None:
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    program = torch.export.export(model, (images,), dynamic_shapes=({0: torch.export.Dim.AUTO},))
    more = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8)
    torch.testing.assert_close(program.module()(more), model(more))


def test_classifier_learns_bright_and_dark_images() -> None:
    torch.manual_seed(0)
    facts = DataFacts(("dark", "bright"), (1, 1), image_size=8, channels=1)
    model = build_classifier(BACKBONE, "cosine", "half", facts)
    targets = torch.arange(32) % 2
    images = (torch.rand(32, 1, 8, 8) * 0.5 + 0.5 * targets.view(-1, 1, 1, 1)).clamp(0, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(20):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images), targets).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert (model.eval()(images).argmax(1) == targets).float().mean() > 0.95


@pytest.mark.parametrize(
    ("head", "normalize", "place"),
    [
        ("linaer", "auto", 'model.head: no head is called "linaer". Did you mean "linear"'),
        ({"name": "linear", "drop": 0.1}, "auto", 'has no argument "drop". Did you mean "dropout"?'),
        (
            {"name": "linear", "dropout": "much"},
            "auto",
            "model.head.dropout: expected float in [0, 1), got 'much' (str).",
        ),
        ("linear", "halff", '`std`, got "halff". Did you mean "half"?'),
    ],
)
def test_invalid_head_or_normalization_raises_with_its_key(head: object, normalize: str, place: str) -> None:
    with pytest.raises(SpecError) as caught:
        check_classifier(BACKBONE, head, normalize)  # type: ignore[arg-type]
    assert place in str(caught.value)
