"""Use of an export by its description only, with ONNX Runtime, NumPy and Pillow."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torchvision.transforms.functional import to_pil_image

import imgrec
from imgrec.export import Predictor, load_model_folder
from imgrec.export.description import describe_network
from imgrec.export.export_network import export_onnx, export_openvino
from imgrec.studies.compression.quantize import quantize_run
from imgrec.types import DataFacts
from tests.export.test_onnx_export import TINY, built

FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def read_by_description(path: Path, description: dict[str, Any]) -> NDArray[np.float32]:
    """Prepare an image by the description only: float32 ``(C, H, W)``."""
    image: Image.Image = Image.open(path)
    pixels: NDArray[Any] | None = None
    for step in description["preprocessing"]:
        if step["operation"] == "decode":
            assert (step["bits"], step["transparency"]) == (8, "dropped")
            assert step["orientation"] == "turned upright as EXIF states"
            image = ImageOps.exif_transpose(image).convert({"RGB": "RGB", "gray": "L"}[step["color"]])
        elif step["operation"] == "resize":
            size, short, long = step["size"], min(image.size), max(image.size)
            other = size if step["edge"] == "both" else size * long // short
            wide = (other, size) if image.width >= image.height else (size, other)
            assert step["antialias"]
            image = image.resize(wide, FILTERS[step["filter"]])
        elif step["operation"] == "center_crop":
            size = step["size"]
            left, top = round((image.width - size) / 2), round((image.height - size) / 2)
            image = image.crop((left, top, left + size, top + size))
        else:
            assert step["operation"] == "divide"
            pixels = np.asarray(image, dtype=np.float32) / np.float32(step["by"])
    assert pixels is not None
    assert not description["included"]["normalization"]["apply_again"]
    assert (description["input"]["layout"], description["input"]["dtype"]) == ("NCHW", "float32")
    channels_first = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    assert list(channels_first.shape) == description["input"]["shape"][1:]
    low, high = description["input"]["range"]
    assert low <= channels_first.min() <= channels_first.max() <= high
    return np.ascontiguousarray(channels_first)


def read_description(file: Path) -> dict[str, Any]:
    """Return the description inside an ONNX file."""
    properties = {entry.key: entry.value for entry in onnx.load(str(file)).metadata_props}
    found: dict[str, Any] = json.loads(properties["imgrec.description"])
    return found


def logits_by_description(file: Path, paths: list[Path], batch: int = 50) -> NDArray[np.float32]:
    description = read_description(file)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    found = []
    for start in range(0, len(paths), batch):
        images = np.stack([read_by_description(path, description) for path in paths[start : start + batch]])
        found.append(session.run([description["output"]["name"]], {description["input"]["name"]: images})[0])
    return np.concatenate(found)


@pytest.fixture
def digits(tmp_path: Path) -> list[Path]:
    """Digits as they are in the data set, 8 x 8 pixels, and three times as large with other aspect ratios."""
    data = imgrec.ImageDataModule(source="digits", channels=1, image_size=16)
    data.setup()
    paths = []
    for number, row in enumerate(data.splits.test[:24].tolist()):
        image = to_pil_image(data.source.load(row)).convert("RGB" if number % 3 else "L")
        if number % 2:
            image = image.resize((24 + number, 31), Image.Resampling.BICUBIC)
        paths.append(tmp_path / f"{number}.png")
        image.save(paths[-1])
    return paths


def test_the_description_is_sufficient_for_the_logits_of_the_predictor(
    trained: Path, digits: list[Path], tmp_path: Path
) -> None:
    classifier, facts = load_model_folder(trained / "model")
    export = export_onnx(classifier, facts, tmp_path / "x")
    expected = np.stack([each.logits for each in Predictor(classifier, facts, device="cpu").predict(digits)])
    found = logits_by_description(export.file, digits)
    assert (found.argmax(1) == expected.argmax(1)).all()
    np.testing.assert_allclose(found, expected, atol=0.02 * np.abs(expected).max())  # a gray level of resizing
    again = (np.stack([read_by_description(path, read_description(export.file)) for path in digits]) - 0.5) / 0.5
    session = onnxruntime.InferenceSession(str(export.file), providers=["CPUExecutionProvider"])
    assert (
        np.abs(session.run(None, {"images": again.astype(np.float32)})[0] - expected).max()
        > 0.2 * np.abs(expected).max()
    )


def test_network_file_export_json_and_card_contain_the_same_description(trained: Path, tmp_path: Path) -> None:
    classifier, facts = load_model_folder(trained / "model")
    description = describe_network(facts, classifier.mean, classifier.std)
    export = export_onnx(classifier, facts, tmp_path / "x", "fp16")
    assert json.loads((export.folder / "export.json").read_text())["description"] == description.to_dict()
    assert read_description(export.file) == description.to_dict()
    assert description.to_text() in (trained / "model" / "README.md").read_text()
    assert description.to_dict()["included"]["normalization"] == {"mean": [0.5], "std": [0.5], "apply_again": False}
    assert (
        "do not apply mean and std again"
        in json.loads((trained / "model" / "config.json").read_text())["imgrec"]["note"]
    )
    assert "Only there, apply mean and std of `pretrained_cfg`" in (trained / "model" / "README.md").read_text()


def test_an_int8_export_contains_the_description(trained: Path, tmp_path: Path) -> None:
    import shutil

    run = Path(shutil.copytree(trained, tmp_path / "run"))
    folder = quantize_run(run, calibration=64)
    classifier, facts = load_model_folder(run / "model")
    assert read_description(folder / "model.onnx") == describe_network(facts, classifier.mean, classifier.std).to_dict()
    assert onnx.load(str(folder / "model.onnx")).producer_name  # the rest of the file is unchanged


def test_openvino_stores_the_description_in_rt_info(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    facts = DataFacts(("a", "<b>", "c\n&"), (1, 1, 1), image_size=16, eval_transforms=("squash",))
    classifier = built(TINY, facts)
    export = export_openvino(classifier, facts, tmp_path / "x", "fp16")
    network = openvino.Core().read_model(str(export.file))
    description = describe_network(facts, classifier.mean, classifier.std)
    assert json.loads(network.get_rt_info(["imgrec", "description"]).value) == description.to_dict()
    assert network.get_rt_info(["imgrec", "description_text"]).value.split() == description.to_text().split()
    assert imgrec.load(export.folder).backend.title == "OpenVINO, fp16"


def test_other_transforms_and_filters_are_described_by_their_spec() -> None:
    transforms = ({"name": "squash", "interpolation": "nearest"}, {"name": "pad", "padding": 2})
    description = describe_network(
        DataFacts(("a", "b"), (1, 1), 8, 3, transforms, multi_label=True), (0.485, 0, 0), (1, 1, 1)
    )
    steps = description.to_dict()["preprocessing"]
    assert steps[1] == {"operation": "resize", "edge": "both", "size": 8, "filter": "nearest", "antialias": False}
    assert steps[2] == {"operation": "imgrec", "spec": transforms[1]}
    assert "Apply the transform" in description.to_text()
    assert description.to_dict()["output"]["probabilities"] == "sigmoid of each logit"
    assert json.loads(json.dumps(description.to_dict())) == description.to_dict()


@pytest.mark.slow
def test_the_description_is_sufficient_for_the_accuracy_on_photographs(tmp_path: Path) -> None:
    """Test EfficientNet-Lite0 on 400 photographs of ImageNet classes. The file names begin with the class."""
    root = Path(os.environ.get("IMGREC_DATA", ""))
    weights = root / "weights" / "tf_efficientnet_lite0"
    if not os.environ.get("IMGREC_DATA") or not weights.is_dir():
        pytest.skip("IMGREC_DATA contains no photographs and weights")
    classifier, facts = load_model_folder(weights)
    export = export_onnx(classifier, facts, tmp_path / "x")
    paths = sorted((root / "photos").glob("*.JPEG"))[:400]
    targets = np.array([int(path.name.partition("_")[0]) for path in paths])
    expected = np.stack([each.logits for each in Predictor(classifier, facts, device="cpu").predict(paths)])
    found = logits_by_description(export.file, paths)
    accuracy = {
        name: float((each.argmax(1) == targets).mean()) for name, each in (("described", found), ("predict", expected))
    }
    print(accuracy)
    assert (found.argmax(1) == expected.argmax(1)).mean() > 0.98
    assert accuracy["described"] == pytest.approx(accuracy["predict"], abs=0.01)
    assert accuracy["described"] > 0.7
