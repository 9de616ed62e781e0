"""Outputs of layers and residual branches that a probe finds."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imgrec.errors import UserError
from imgrec.models.utils.probe import ResidualBranch, probe
from tests.models.small_models import meta_network

RESIDUAL = {
    "resnet18": (8, "layer1.0.bn2", "layer1.0.bn2", True),
    "resnet50": (16, "layer1.0.bn3", "layer1.0.bn3", True),
    "resnetv2_50": (16, "stages.0.blocks.0.conv3", "stages.0.blocks.0.conv3", True),
    "efficientnet_b0": (9, "blocks.1.1.bn3", "blocks.1.1.bn3", True),
    "ghostnet_100": (16, "blocks.0.0.ghost2", None, True),
    "convnext_atto": (12, "stages.0.blocks.0.drop_path", "stages.0.blocks.0.mlp.fc2", True),
    "vit_tiny_patch16_224": (24, "blocks.0.attn.proj", "blocks.0.attn.proj", False),
    "torchvision/resnet18": (8, "layer1.0.bn2", "layer1.0.bn2", True),
    "torchvision/mobilenet_v2": (10, "features.3.conv.3", "features.3.conv.3", True),
    "cifar_resnet": (9, "stages.0.0.bn2", "stages.0.0.bn2", True),
    "resnet9": (2, "stages.0.1.branch.1.3", None, True),
}
"""Number of residual branches of each network, the end and last weights of the first one, True for maps."""


@pytest.mark.parametrize("name", RESIDUAL)
def test_all_residual_branches_are_found(name: str) -> None:
    count, end, last, maps = RESIDUAL[name]
    probed = probe(meta_network(name), 3, 64)
    assert len(probed.branches) == count
    assert (probed.branches[0].end, probed.branches[0].last) == (end, last)
    assert probed.outputs[end].is_map == maps


@pytest.mark.parametrize("name", ["torchvision/vgg11", "torchvision/densenet121", "torchvision/squeezenet1_1"])
def test_network_without_additions_has_no_branch(name: str) -> None:
    assert probe(meta_network(name), 3, 64).branches == []


def test_fused_streams_are_no_residual_branches() -> None:
    ends = [branch.end or "" for branch in probe(meta_network("hrnet_w18_small"), 3, 64).branches]
    assert ends
    assert not any("fuse" in end for end in ends)


def test_dimension_of_channels() -> None:
    given = probe(meta_network("swin_tiny_patch4_window7_224", window_size=4), 3, 64).outputs
    assert given["layers.0.blocks.0.norm1"].channels == 3  # (N, H, W, C)
    assert not given["layers.0.blocks.0.norm1"].is_map
    assert given["patch_embed.proj"].is_map
    convolved = probe(meta_network("convnext_atto"), 3, 64).outputs
    assert convolved["stages.0.blocks.0.norm"].is_map  # a layer normalization between two permutations


class Odd(nn.Module):
    """Three branches: with a function at the end, with a last layer called twice, with a softmax at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.one, self.two, self.three = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.stem(images)
        maps = maps + 0.5 * F.relu(self.one(maps))
        maps += self.two(self.two(maps))
        maps = torch.add(maps, F.softmax(self.three(maps), 1))
        return (maps + torch.ones_like(maps)).mean((2, 3))


def test_branch_without_single_last_layer_has_no_end() -> None:
    probed = probe(Odd(), 3, 4)
    assert probed.branches == [
        ResidualBranch(None, None, None),
        ResidualBranch(None, None, "two"),
        ResidualBranch(None, None, None),
    ]
    assert probed.functions == [("relu", "")]
    assert probed.outputs["two"].calls == 2


def test_probe_changes_neither_network_nor_random_state() -> None:
    torch.manual_seed(0)
    tried = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.ReLU(inplace=True))
    tried[1].eval()
    kept = {name: value.clone() for name, value in tried.state_dict().items()}
    before = torch.random.get_rng_state()
    probe(tried, 3, 8)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert [module.training for module in tried] == [True, False, True, True]
    assert all(torch.equal(value, kept[name]) for name, value in tried.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in tried.modules())


def test_invalid_images_raise() -> None:
    with pytest.raises(UserError, match=r"does not accept images of 2 x 2 pixels with 3 channel\(s\)"):
        probe(nn.Sequential(nn.Conv2d(3, 4, 5)), 3, 2)
