"""What a trial run tells of a network."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imgrec.errors import UserError
from imgrec.models import BACKBONES
from imgrec.models.utils.probe import ResidualBranch, probe


def network(name: str, **arguments: object) -> nn.Module:
    with torch.device("meta"):
        return BACKBONES.build({"name": name, **arguments}, image_size=64, num_classes=4, load_weights=False).network


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
"""By network: how many residual branches its paper or code has, the end of the first, its last weights, if maps."""


@pytest.mark.parametrize("name", RESIDUAL)
def test_the_residual_branches_of_a_network_are_all_found(name: str) -> None:
    count, end, last, maps = RESIDUAL[name]
    probed = probe(network(name), 3, 64)
    assert len(probed.branches) == count
    assert (probed.branches[0].end, probed.branches[0].last) == (end, last)
    assert probed.outputs[end].is_map == maps


@pytest.mark.parametrize("name", ["torchvision/vgg11", "torchvision/densenet121", "torchvision/squeezenet1_1"])
def test_a_network_that_adds_nothing_has_none(name: str) -> None:
    assert probe(network(name), 3, 64).branches == []


def test_streams_that_are_fused_are_no_residual_branches() -> None:
    ends = [branch.end or "" for branch in probe(network("hrnet_w18_small"), 3, 64).branches]
    assert ends
    assert not any("fuse" in end for end in ends)


def test_channels_are_told_from_places() -> None:
    given = probe(network("swin_tiny_patch4_window7_224", window_size=4), 3, 64).outputs
    assert given["layers.0.blocks.0.norm1"].channels == 3  # (N, H, W, C)
    assert not given["layers.0.blocks.0.norm1"].is_map
    assert given["patch_embed.proj"].is_map
    convolved = probe(network("convnext_atto"), 3, 64).outputs
    assert convolved["stages.0.blocks.0.norm"].is_map  # a layer normalization that permutes, and permutes back


class Odd(nn.Module):
    """A branch that code ends, one whose last layer is called twice, one that ends in a softmax."""

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


def test_what_no_single_layer_ends_is_said_to_have_no_end() -> None:
    probed = probe(Odd(), 3, 4)
    assert probed.branches == [
        ResidualBranch(None, None, None),
        ResidualBranch(None, None, "two"),
        ResidualBranch(None, None, None),
    ]
    assert probed.functions == [("relu", "")]
    assert probed.outputs["two"].calls == 2


def test_a_trial_leaves_the_network_and_the_draws_as_they_were() -> None:
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


def test_images_that_a_network_cannot_take_are_refused() -> None:
    with pytest.raises(UserError, match=r"does not accept images of 2 x 2 pixels with 3 channel\(s\)"):
        probe(nn.Sequential(nn.Conv2d(3, 4, 5)), 3, 2)
