from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from imgrec.errors import UserError
from imgrec.export import Predictor, load_model_folder
from imgrec.models import Classifier, build_classifier
from imgrec.types import DataFacts

FACTS = DataFacts(("red", "green", "blue"), (1, 1, 1), image_size=32, eval_transforms=("resize", "center_crop"))


@pytest.fixture(scope="module")
def model() -> Classifier:
    torch.manual_seed(0)
    spec = {"name": "resnet18", "layers": [1, 1, 1, 1], "channels": [8, 16, 16, 16], "stem_width": 8}
    return build_classifier(spec, "linear", "half", FACTS)


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    generator = np.random.default_rng(0)
    paths = []
    for i in range(7):
        pixels = generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        paths.append(tmp_path / f"{i}.png")
        Image.fromarray(pixels).save(paths[-1])
    return paths


def test_predictions_equal_the_model_output_in_order(model: Classifier, images: list[Path]) -> None:
    found = Predictor(model, FACTS, batch_size=3, device="cpu").predict([str(p) for p in images[::-1]])
    assert [p.path for p in found] == images[::-1]
    for prediction in found:
        pixels = torch.from_numpy(np.array(Image.open(prediction.path))).permute(2, 0, 1)[None]
        with torch.no_grad():
            logits = model.eval()(pixels)[0]
        np.testing.assert_allclose(prediction.logits, logits.numpy(), rtol=1e-4, atol=1e-5)
        expected = np.exp(prediction.logits.astype(float)) / np.exp(prediction.logits.astype(float)).sum()
        order = np.argsort(-expected)
        assert prediction.classes == tuple(FACTS.class_names[i] for i in order)
        np.testing.assert_allclose(prediction.probabilities, expected[order])
        assert prediction.error is None


def test_unreadable_files_are_reported_and_skipped(model: Classifier, images: list[Path], tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "cut.png").write_bytes(images[0].read_bytes()[:200])
    (tmp_path / "text.png").write_text("no image")
    bad = [tmp_path / "empty.jpg", tmp_path / "cut.png", tmp_path / "text.png", tmp_path / "gone.png"]
    found = Predictor(model, FACTS, batch_size=4, device="cpu").predict([bad[0], images[0], *bad[1:], images[1]])
    assert [p.error is None for p in found] == [False, True, False, False, False, True]
    assert "empty" in (found[0].error or "")
    assert "no such file" in (found[4].error or "")
    assert found[0].classes == ()
    assert found[0].probabilities.shape == (0,)


def test_gray_and_rectangular_images_are_converted(model: Classifier, tmp_path: Path) -> None:
    Image.new("L", (50, 40), 100).save(tmp_path / "grey.png")
    predictor = Predictor(model, FACTS, device="cpu")
    read = predictor.read(tmp_path / "grey.png")
    assert isinstance(read, torch.Tensor)
    assert read.shape == (3, 32, 32)
    assert set(read.flatten().tolist()) == {100}


def test_the_stream_is_lazy(model: Classifier, images: list[Path]) -> None:
    count = 0

    def endless() -> Iterator[Path]:
        nonlocal count
        while True:
            count += 1
            yield images[count % len(images)]

    stream = Predictor(model, FACTS, batch_size=2, device="cpu").stream(endless())
    for _ in range(4):
        assert next(stream).error is None
    assert count <= 4 + 3 * 2


def test_a_wrong_device_or_batch_size_is_refused(model: Classifier) -> None:
    with pytest.raises(UserError, match="device: expected auto"):
        Predictor(model, FACTS, device="gpu")
    with pytest.raises(UserError, match="batch_size: expected int > 0, got 0"):
        Predictor(model, FACTS, batch_size=0)
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="cannot be used"):
            Predictor(model, FACTS, device="cuda")


def test_a_pretrained_network_classifies_photographs() -> None:
    if not os.environ.get("IMGREC_DATA"):
        pytest.skip("IMGREC_DATA is not set")
    data = Path(os.environ["IMGREC_DATA"])
    paths = sorted((data / "photos").iterdir())[:60]
    classifier, facts = load_model_folder(data / "weights" / "tf_efficientnet_lite0")
    found = Predictor(classifier, facts, batch_size=16, device="cpu").predict(paths)
    right = [p.classes[0] == str(int(p.path.name.partition("_")[0])) for p in found]
    assert np.mean(right) > 0.75
