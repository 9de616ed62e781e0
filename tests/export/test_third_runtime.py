"""A runtime and a format of another package, found by their entry points, work in every command."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from imgrec import registry
from imgrec.cli.main import main
from imgrec.export.export_folder import Export, read_export
from imgrec.export.export_network import export_network
from imgrec.export.formats.registry import default_runtime, export_runtimes, format_names
from imgrec.export.runtimes.registry import open_runtime, runtime_names, runtimes_of
from imgrec.models import Classifier
from imgrec.models.backbones.base import Backbone
from imgrec.types import DataFacts

FACTS = DataFacts(("even", "odd"), (1, 1), image_size=4, channels=1, eval_transforms=({"name": "resize"},))
MODULE = '''
"""Affine networks in NumPy: logits = images @ weight + bias."""
import numpy as np
from imgrec.export.formats import Format
from imgrec.export.runtimes import OpenOptions, Runtime
from imgrec.export.runtimes.onnxruntime import OnnxRuntime


class NumpyRuntime(Runtime):
    """Affine networks in NumPy."""

    title = short_title = "NumPy"
    suffixes = (".npz",)

    def __init__(self, network, options):
        arrays = np.load(network, allow_pickle=False)
        self.weight, self.bias = arrays["weight"], arrays["bias"]
        self.image_shape = tuple(int(each) for each in arrays["shape"])

    def __call__(self, images):
        self.check(images)
        return (images.reshape(len(images), -1) @ self.weight + self.bias).astype(np.float32)

    def close(self):
        del self.weight, self.bias


class NumpyFormat(Format):
    """Weight and bias of an affine network, read off its response to unit images."""

    files = ("model.npz",)

    def convert(self, source, target, precision="fp32"):
        with OnnxRuntime(source, OpenOptions()) as network:
            shape, size = network.image_shape, int(np.prod(network.image_shape))
            bias = network(np.zeros((1, *shape), np.float32))[0]
            weight = network(np.eye(size, dtype=np.float32).reshape(size, *shape)) - bias
        np.savez(target, weight=weight, bias=bias, shape=shape)
        return target
'''


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Install a package with a runtime and a format, in this process and in those that it starts."""
    site = tmp_path / "site"
    (site / "numpy_runtime-1.0.dist-info").mkdir(parents=True)
    (site / "numpy_runtime.py").write_text(MODULE)
    (site / "numpy_runtime-1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: numpy-runtime\nVersion: 1.0\n"
    )
    (site / "numpy_runtime-1.0.dist-info" / "entry_points.txt").write_text(
        "[imgrec.runtimes]\nnumpy = numpy_runtime:NumpyRuntime\n[imgrec.formats]\nnpz = numpy_runtime:NumpyFormat\n"
    )
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("PYTHONPATH", str(site))
    registry._points.cache_clear()
    yield
    registry._points.cache_clear()


@pytest.fixture
def classifier() -> Classifier:
    torch.manual_seed(0)
    backbone = Backbone(nn.Flatten(), 16, (0.5,), (0.5,))
    return Classifier(backbone, nn.Linear(16, 2), (0.5,), (0.5,)).eval()


@pytest.fixture
def export(package: None, classifier: Classifier, tmp_path: Path) -> Export:
    return export_network(classifier, FACTS, tmp_path / "export", "npz")


def test_the_registries_contain_it(package: None) -> None:
    assert runtime_names() == ["torch", "compile", "onnxruntime", "openvino", "numpy"]
    assert export_runtimes() == ["onnxruntime", "openvino", "numpy"]
    assert (format_names("numpy"), default_runtime("npz")) == (("npz",), "numpy")


def test_it_computes_the_logits_of_the_classifier(export: Export, classifier: Classifier) -> None:
    assert export.logits_max_difference < 1e-5
    assert read_export(export.folder) == export
    assert runtimes_of(export.folder) == ("numpy",)
    images = np.random.default_rng(0).random((3, 1, 4, 4), dtype=np.float32)
    with open_runtime(export.folder, "numpy") as network, torch.no_grad():
        np.testing.assert_allclose(network(images), classifier(torch.from_numpy(images)), atol=1e-5)


def test_commands_accept_it(
    export: Export, classifier: Classifier, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(np.arange(0, 256, 16, dtype=np.uint8).reshape(4, 4)).save(tmp_path / "image.png")
    folder = str(export.folder)
    assert main(["predict", folder, str(tmp_path / "image.png")]) == 0
    assert "NumPy, fp32" in capsys.readouterr().err
    bench = [
        "bench",
        folder,
        "--runtime",
        "numpy",
        "--batch",
        "1",
        "--budget",
        "0.02",
        "--csv",
        str(tmp_path / "b.csv"),
    ]
    assert main(bench) == 0
    (row,) = csv.DictReader((tmp_path / "b.csv").read_text().splitlines())
    assert (row["runtime"], row["precision"]) == ("numpy", "fp32")
    assert main(["show", "runtimes", "numpy"]) == 0
    assert "Affine networks in NumPy." in capsys.readouterr().out
