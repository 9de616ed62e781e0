"""Static int8 quantization for OpenVINO: bias correction."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from imgrec.compress.quantization.openvino import Biases, OpenVinoInt8
from imgrec.compress.quantization.sensitivity import divergence
from imgrec.export.onnx_writer import write_onnx
from imgrec.export.runtimes.registry import open_runtime
from imgrec.models import build_classifier
from imgrec.types import DataFacts

FACTS = DataFacts(("a", "b", "c"), (1, 1, 1), image_size=16)
BACKBONE = {"name": "resnet9", "channels": [4, 4, 4, 4], "blocks": [0, 0, 0], "block_depth": 1}


@pytest.mark.slow
def test_auto_selects_the_bias_correction_of_lower_divergence(tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        classifier = build_classifier(BACKBONE, "linear", "half", FACTS).eval()
    source = write_onnx(classifier, FACTS, tmp_path / "model.onnx")
    images = np.random.default_rng(0).integers(0, 256, (32, 3, 16, 16), dtype=np.uint8)

    def logits(file: Path, runtime: str) -> NDArray[np.float32]:
        with open_runtime(file, runtime) as network:
            return network(images.astype(np.float32) / 255)

    ways: tuple[Biases, ...] = ("fast", "none")
    files = {way: OpenVinoInt8(source, images, way).write(tmp_path / f"{way}.xml") for way in ways}
    reference = logits(source, "onnxruntime")
    found = {way: divergence(reference, logits(file, "openvino")) for way, file in files.items()}
    assert found["fast"] != found["none"]
    assert OpenVinoInt8(source, images).settings["biases"] == min(found, key=found.__getitem__)
