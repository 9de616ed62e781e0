"""Quantization-aware classifiers and their conversion to int8."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from imgrec.compress import drop_blocks, prune_channels
from imgrec.compress.quantization.fake_quantize import ActivationRange, fake_weight, integer_weights, weight_scales
from imgrec.compress.quantization.int8 import to_int8
from imgrec.compress.quantization.qat import QuantizedClassifier
from imgrec.compress.surgery import rebuild, surgery_of
from imgrec.errors import UserError
from imgrec.export import load_model_folder, save_model_folder
from imgrec.export.qat_onnx import export_qat
from imgrec.models import Classifier, build_classifier
from imgrec.types import DataFacts

FACTS = DataFacts(("a", "b", "c"), (5, 5, 5), image_size=32)
RESNET: dict[str, Any] = {
    "name": "resnet18",
    "layers": [1, 1, 1, 1],
    "channels": [8, 8, 8, 8],
    "stem_width": 8,
    "drop_rate": 0.2,
}


def classifier(backbone: Any = RESNET, head: Any = "linear") -> Classifier:
    torch.manual_seed(0)
    model = build_classifier(backbone, head, "half", FACTS, load_weights=False)
    for _ in range(3):
        model.train()(images(16))
    return model


def images(count: int) -> Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)


@pytest.fixture(scope="module")
def learnt() -> QuantizedClassifier:
    """Return a calibrated quantized network with some negative and some zero gains of batch normalization."""
    model = classifier()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight[0] *= -1
                module.weight[1] = 0
    quantized = QuantizedClassifier(model, 3, 32)
    quantized.calibrate(images(64))
    return quantized.eval()


def test_int8_weights_are_the_nearest_multiples_of_the_channel_scale() -> None:
    weight = (
        torch.randn(5, 4, 3, 3, generator=torch.Generator().manual_seed(0))
        * torch.logspace(-4, 1, 5)[:, None, None, None]
    )
    values = weight.numpy().astype(np.float64)
    step = np.abs(values).reshape(5, -1).max(1) / 127
    expected = np.round(values / step[:, None, None, None])
    assert np.array_equal(integer_weights(weight).numpy(), expected)
    np.testing.assert_allclose(fake_weight(weight).numpy(), expected * step[:, None, None, None], rtol=1e-5)
    np.testing.assert_allclose(weight_scales(weight).numpy(), step, rtol=1e-6)


def test_a_factor_per_channel_does_not_change_the_integers() -> None:
    weight = torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(1))
    factor = torch.tensor([0.01, -3.0, 0.5, -0.2, 7.0, 1.0])
    before, after = integer_weights(weight), integer_weights(weight * factor[:, None, None, None])
    assert torch.equal(before * factor.sign().to(torch.int8)[:, None, None, None], after)


def test_the_gradient_of_weights_is_straight_through() -> None:
    weight = torch.randn(3, 4, requires_grad=True)
    torch.autograd.backward((fake_weight(weight) * torch.arange(12.0).view(3, 4)).sum())
    assert weight.grad is not None
    assert torch.equal(weight.grad, torch.arange(12.0).view(3, 4))


def test_ranges_are_updated_by_training_batches_only() -> None:
    bounds = ActivationRange(momentum=0.1)
    bounds.low.fill_(-1.0)
    bounds.high.fill_(1.0)
    values = torch.tensor([-3.0, 0.2, 5.0], requires_grad=True)
    torch.autograd.backward(bounds.train()(values).sum())
    assert (float(bounds.low), float(bounds.high)) == pytest.approx((-1.2, 1.4))
    assert values.grad is not None
    assert values.grad.tolist() == [0.0, 1.0, 0.0]  # what is cut off learns nothing
    bounds.eval()(torch.tensor([100.0]))
    bounds.observer_mode = "no"
    bounds.train()(torch.tensor([100.0]))
    assert (float(bounds.low), float(bounds.high)) == pytest.approx((-1.2, 1.4))


def test_zero_is_always_zero() -> None:
    bounds = ActivationRange().eval()
    bounds.low.fill_(-0.37)
    bounds.high.fill_(1.91)
    assert float(bounds(torch.zeros(1))) == 0


def test_without_quantization_the_logits_are_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits, features, batch norm's statistics and draws of dropout, in training and in evaluation."""
    model = classifier()
    quantized = QuantizedClassifier(copy.deepcopy(model), 3, 32)
    monkeypatch.setattr(ActivationRange, "forward", lambda self, values: values)
    for name, value in quantized.program._run.__globals__.items():
        if value is fake_weight:
            monkeypatch.setitem(quantized.program._run.__globals__, name, lambda weight: weight)
    for mode in (True, False, True):
        model.train(mode)
        quantized.train(mode)
        torch.manual_seed(1)
        expected = model.forward_all(images(8))
        torch.manual_seed(1)
        found = quantized.forward_all(images(8))
        assert torch.equal(found[0], expected[0])
        assert torch.equal(found[1], expected[1])
    state = quantized.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_parameters_are_the_same_objects_under_the_same_names() -> None:
    model = classifier()
    before = dict(model.named_parameters())
    quantized = QuantizedClassifier(model, 3, 32)
    after = dict(quantized.named_parameters())
    assert list(before) == list(after)
    assert all(before[name] is after[name] for name in before)
    copied = copy.deepcopy(quantized)
    copied.backbone.network.conv1.weight.data.zero_()  # type: ignore[union-attr, operator]
    quantized.calibrate(images(8))
    first = "backbone.network.conv1.weight"
    copied.load_state_dict({**quantized.state_dict(), first: torch.zeros_like(before[first])})
    assert not torch.equal(copied.eval()(images(2)), quantized.eval()(images(2)))


def test_frozen_batch_norm_uses_its_running_statistics(learnt: QuantizedClassifier) -> None:
    model = copy.deepcopy(learnt).train()
    model.freeze_norms = True
    model.set_observer_mode("no")
    before = copy.deepcopy(model.state_dict())
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    model(images(16)).sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model.freeze_norms = False
    model(images(16))
    assert not torch.equal(
        model.state_dict()["backbone.network.bn1.running_mean"], before["backbone.network.bn1.running_mean"]
    )


def test_int8_logits_equal_those_of_the_fake_quantization(learnt: QuantizedClassifier) -> None:
    found, expected = to_int8(learnt), learnt(images(64))
    torch.testing.assert_close(found(images(64)), expected, rtol=0, atol=5e-2 * float(expected.detach().abs().max()))
    kinds = {value.dtype for name, value in found.state_dict().items() if name.endswith("_weight_whole")}
    assert kinds == {torch.int8}
    assert found.train().training is False


def test_onnx_runtime_uses_int8_kernels_with_the_same_logits(learnt: QuantizedClassifier, tmp_path: Path) -> None:
    pixels = images(40).numpy().astype(np.float32) / np.float32(255)
    export = export_qat(learnt, FACTS, tmp_path / "int8", pixels)
    about = export.quantization
    assert about is not None
    assert about["kernels"] == {"QGemm": 1, "QLinearAdd": 4, "QLinearConv": 13}
    assert about["agreement"] == 1.0
    session = onnxruntime.InferenceSession(str(export.file))
    expected = learnt(images(40)).detach()
    for count in (1, 3, 40):
        (logits,) = session.run(None, {"images": pixels[:count]})
        torch.testing.assert_close(
            torch.from_numpy(logits), expected[:count], rtol=0, atol=5e-2 * float(expected.detach().abs().max())
        )


def test_a_model_folder_restores_a_quantized_classifier(learnt: QuantizedClassifier, tmp_path: Path) -> None:
    specs = {"backbone": RESNET, "head": "linear", "normalize": "half"}
    save_model_folder(tmp_path / "model", learnt, specs, FACTS)
    loaded, _ = load_model_folder(tmp_path / "model")
    assert isinstance(loaded, QuantizedClassifier)
    assert torch.equal(loaded(images(4)), learnt(images(4)))


def test_a_quantized_classifier_cannot_be_pruned(learnt: QuantizedClassifier) -> None:
    state = copy.deepcopy(learnt.state_dict())
    with pytest.raises(UserError, match="Prune before quantization"):
        prune_channels(learnt, images(2), {"macs": 0.5})
    with pytest.raises(UserError, match="Prune before quantization"):
        drop_blocks(learnt, images(2), {"macs": 0.5})
    assert all(torch.equal(value, state[name]) for name, value in learnt.state_dict().items())


def test_a_quantized_classifier_is_rebuilt_from_its_record(learnt: QuantizedClassifier) -> None:
    steps = surgery_of(learnt)
    assert steps == [{"step": "qat", "channels": 3, "image_size": 32}]
    again = rebuild(classifier(), steps)
    again.load_state_dict(learnt.state_dict())
    assert torch.equal(again.eval()(images(4)), learnt(images(4)))
    with pytest.raises(UserError, match="is incomplete"):
        rebuild(classifier(), [{"step": "qat"}])


@pytest.mark.parametrize(
    "backbone",
    [
        pytest.param("tf_efficientnet_lite0", marks=pytest.mark.slow),
        pytest.param("mobilenetv3_small_050", marks=pytest.mark.slow),
        pytest.param({"name": "vit_tiny_patch16_224", "patch_size": 8, "depth": 2}, marks=pytest.mark.slow),
        pytest.param("densenet121", marks=pytest.mark.slow),
        {"name": "convnext_atto", "depths": [1, 1, 1, 1], "dims": [8, 8, 8, 8]},
        {"name": "resnet9", "channels": [6, 8, 8], "blocks": [1, 0], "block_depth": 2},
    ],
    ids=str,
)
def test_architectures(backbone: Any) -> None:
    quantized = QuantizedClassifier(classifier(backbone), 3, 32)
    quantized.calibrate(images(16))
    quantized.train()(images(4)).square().mean().backward()
    assert all(parameter.grad is not None for parameter in quantized.parameters())
    expected = quantized.eval()(images(16))
    assert quantized(images(1)).shape == (1, 3)
    torch.testing.assert_close(
        to_int8(quantized)(images(16)), expected, rtol=0, atol=0.2 * float(expected.detach().abs().max())
    )


def test_random_layers_other_than_dropout_are_refused() -> None:
    with pytest.raises(UserError, match="drop_path_rate"):
        QuantizedClassifier(classifier({**RESNET, "drop_path_rate": 0.2}), 3, 32)
