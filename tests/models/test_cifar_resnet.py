from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from imgrec.compress.profiling import count_macs, count_parameters
from imgrec.errors import SpecError
from imgrec.export import load_model_folder, save_model_folder
from imgrec.models import BACKBONES, CifarResNet, build_classifier, check_classifier
from tests.models.small_models import make_facts

TINY: dict[str, Any] = {"name": "cifar_resnet", "depth": 14, "widths": [4, 6, 8]}


@pytest.mark.parametrize(
    ("depth", "parameters", "macs"),
    [(20, 0.27e6, 40.8e6), (32, 0.46e6, 69.1e6), (56, 0.85e6, 125.5e6), (110, 1.7e6, 253e6)],
)
def test_published_sizes(depth: int, parameters: float, macs: float) -> None:
    """Compare with table 6 of the paper, and with the MACs in papers on pruning."""
    model = build_classifier({"name": "cifar_resnet", "depth": depth}, "linear", "auto", make_facts(10))
    assert count_parameters(model) == pytest.approx(parameters, rel=0.03)
    assert count_macs(model, torch.zeros(1, 3, 32, 32)) == pytest.approx(macs, rel=0.01)


def test_forward_equals_independent_computation() -> None:
    torch.manual_seed(0)
    network = BACKBONES.build({**TINY, "depth": 8}).network.eval()
    for name, tensor in network.state_dict().items():
        if "conv" not in name and tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5)
    state, images = network.state_dict(), torch.randn(2, 3, 32, 32)

    def norm(name: str, x: Tensor) -> Tensor:
        parts = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(state[f"{name}.{part}"] for part in parts))

    x = norm("bn1", F.conv2d(images, state["conv1.weight"], padding=1)).relu()
    for stage, stride in enumerate((1, 2, 2)):
        block = f"stages.{stage}.0"
        y = norm(f"{block}.bn1", F.conv2d(x, state[f"{block}.conv1.weight"], stride=stride, padding=1)).relu()
        y = norm(f"{block}.bn2", F.conv2d(y, state[f"{block}.conv2.weight"], padding=1))
        if stage:
            x = norm(f"{block}.shortcut.1", F.conv2d(x, state[f"{block}.shortcut.0.weight"], stride=2))
        x = (x + y).relu()
    with torch.no_grad():
        torch.testing.assert_close(network(images), x.mean(dim=(2, 3)))


def test_model_folder_round_trip(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build_classifier(TINY, "linear", "auto", make_facts(3, channels=1)).eval()
    folder = save_model_folder(
        tmp_path / "model", model, {"backbone": TINY, "head": "linear", "normalize": "auto"}, make_facts(3, channels=1)
    )
    images = torch.randint(256, (3, 1, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(load_model_folder(folder)[0](images), model(images))
    started = BACKBONES.build({**TINY, "weights": str(folder)}, in_channels=1).network
    assert isinstance(started, CifarResNet)
    for name, value in model.backbone.network.state_dict().items():
        assert torch.equal(started.state_dict()[name], value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 18}, "depth: expected 6n \\+ 2, such as 8, 14, 20"),
        ({"depth": 2}, "depth: expected 6n \\+ 2"),
        ({"widths": [16, 32]}, "widths: expected the channels of three stages"),
    ],
)
def test_invalid_argument_raises_in_check(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        check_classifier({"name": "cifar_resnet", **arguments}, "linear", "auto")
    assert "model.backbone" in str(caught.value)
