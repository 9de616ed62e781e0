"""Post-training int8 quantization: speedup and loss of accuracy, in the same runtime at batch 1.

EfficientNet-Lite0 with ImageNet weights is calibrated on 100 photographs and evaluated on 400 others. ResNet-18 at 224
pixels has random weights. Its time is measured in two runtimes, and its int8 logits are compared with fp32. Times are
CPU milliseconds on one pinned core.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import Claim, finish, measure_interleaved, parse_options, pin, print_table
from input_common import data
from numpy.typing import NDArray

from imgrec.compress.quantization.calibration import unit_batches
from imgrec.compress.quantization.onnx_static import OnnxInt8, Ranges
from imgrec.compress.quantization.openvino import OpenVinoInt8
from imgrec.compress.quantization.sensitivity import divergence
from imgrec.export import Predictor, load_model_folder
from imgrec.export.formats.openvino import to_openvino
from imgrec.export.onnx_writer import write_onnx
from imgrec.export.runtimes.registry import Runtime, open_runtime
from imgrec.models import build_classifier
from imgrec.stats.accuracy_drop import accuracy_drop
from imgrec.types import DataFacts
from imgrec.utils.seeding import position_generator

CALIBRATION = 100


def main() -> None:
    options = parse_options(__doc__ or "")
    photos, weights = data("photos"), data("weights/tf_efficientnet_lite0")
    if photos is None or weights is None:
        sys.exit(0)
    pin()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        claims = lite0(photos, weights, Path(folder), options.quick)
        claims += resnet18(Path(folder), options.quick)
    finish(claims)


def lite0(photos: Path, weights: Path, folder: Path, quick: bool) -> list[Claim]:
    classifier, facts = load_model_folder(weights)
    reader = Predictor(classifier, facts, device="cpu")
    files = sorted(p for p in photos.iterdir() if p.suffix.lower() in (".jpg", ".jpeg"))
    # every fifth file calibrates: files are sorted by class, so both parts cover the range of classes
    calibrating = files[::5][: 40 if quick else CALIBRATION]
    judging = [file for i, file in enumerate(files) if i % 5][: 100 if quick else None]
    images = np.stack([read(reader, file) for file in calibrating])
    source = write_onnx(classifier, facts, folder / "lite0.onnx")
    small = select_int8(source, images, folder)
    right = {name: is_correct(file, reader, judging) for name, file in (("fp32", source), ("int8", small))}
    drop = accuracy_drop(right["fp32"], right["int8"])
    print(f"EfficientNet-Lite0, {len(images)} photographs calibrate, {len(judging)} others judge: {drop}")
    ratio = speed(source, small, facts, quick)
    return [
        Claim("EfficientNet-Lite0, top-1 lost by int8", f"{drop.drop:.2f} points", "0.5 points", drop.drop <= 0.5),
        Claim("EfficientNet-Lite0, int8 to fp32 in ONNX Runtime, batch 1", f"{ratio:.2f}x", "1.7x", ratio >= 1.7),
    ]


def select_int8(source: Path, images: NDArray[np.uint8], folder: Path) -> Path:
    """Return the int8 network of the range estimator with the smallest divergence on the calibration images."""

    def logits(network: Path) -> NDArray[np.float32]:
        with open_runtime(network, "onnxruntime") as runtime:
            return np.concatenate([runtime(batch) for batch in unit_batches(images, 1)])

    reference = logits(source)
    estimators: tuple[Ranges, ...] = ("minmax", "percentile")
    files = {
        estimator: OnnxInt8(source, images, estimator).write(folder / f"lite0-{estimator}.onnx")
        for estimator in estimators
    }
    found = {estimator: divergence(reference, logits(file)) for estimator, file in files.items()}
    print(
        "divergence on the calibration images: "
        + ", ".join(f"{estimator} {value:.5f}" for estimator, value in found.items())
    )
    return files[min(estimators, key=found.__getitem__)]


def resnet18(folder: Path, quick: bool) -> list[Claim]:
    facts = DataFacts(tuple(map(str, range(1000))), (1,) * 1000, image_size=224)
    torch.manual_seed(0)
    classifier = build_classifier("resnet18", "linear", "imagenet", facts).eval()
    images = torch.rand(32, 3, 224, 224, generator=position_generator(0)).numpy()
    source = write_onnx(classifier, facts, folder / "resnet18.onnx")
    small = OnnxInt8(source, images).write(folder / "resnet18-int8.onnx")
    with open_runtime(source, "onnxruntime") as before, open_runtime(small, "onnxruntime") as after:
        logits = [np.concatenate([network(images[i : i + 1]) for i in range(16)]) for network in (before, after)]
    print(f"ResNet-18, correlation of the logits: {np.corrcoef(*(each.ravel() for each in logits))[0, 1]:.4f}")
    float_file = to_openvino(source, folder / "resnet18.xml")
    int8_file = OpenVinoInt8(source, images).write(folder / "resnet18-int8.xml")
    ratios = {
        "ONNX Runtime": speed(source, small, facts, quick),
        "OpenVINO": speed(float_file, int8_file, facts, quick, "openvino"),
    }
    best = max(ratios, key=lambda name: ratios[name])
    name = f"ResNet-18 at 224, int8 to fp32 in the same runtime ({best}), batch 1"
    return [Claim(name, f"{ratios[best]:.2f}x", "3.3x", ratios[best] >= 3.3)]


def read(reader: Predictor, file: Path) -> NDArray[np.uint8]:
    image = reader.read(file)
    if isinstance(image, str):
        raise SystemExit(f"{file}: {image}")
    found: NDArray[np.uint8] = image.numpy()
    return found


def is_correct(network: Path, reader: Predictor, files: list[Path]) -> NDArray[np.bool_]:
    """Return which photographs are classified correctly. File names begin with the ImageNet class index."""
    right = []
    with open_runtime(network, "onnxruntime") as runtime:
        for file in files:
            image = read(reader, file)[None].astype(np.float32) / 255
            right.append(int(runtime(image).argmax()) == int(file.name.partition("_")[0]))
    return np.array(right)


def speed(source: Path, small: Path, facts: DataFacts, quick: bool, runtime: str = "onnxruntime") -> float:
    """Print the times and return the median speedup of int8 over interleaved rounds."""
    print(f"in {runtime}:")
    image = torch.rand(1, 3, facts.image_size, facts.image_size, generator=position_generator(1)).numpy()
    with open_runtime(source, runtime) as before, open_runtime(small, runtime) as after:
        sides = {"fp32": milliseconds(before, image), "int8": milliseconds(after, image)}
        found = measure_interleaved(sides, 7 if quick else 21)
    print_table(found, "ms", "fp32")
    return statistics.median(a / b for a, b in zip(found["fp32"], found["int8"], strict=True))


def milliseconds(network: Runtime, image: NDArray[Any]) -> Callable[[], float]:
    def measure() -> float:
        begun = time.process_time()
        for _ in range(10):
            network(image)
        return 100 * (time.process_time() - begun)

    return measure


if __name__ == "__main__":
    main()
