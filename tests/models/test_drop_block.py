"""DropBlock, dropout and stochastic depth."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from timm.layers.drop import DropPath
from torch import nn

from imgrec.errors import UserError
from imgrec.models import Depth, DropBlocks, Dropout, SpatialDropout
from imgrec.models.edits.drop_block import DropBlock, drop_block, spread_blocks
from tests.models.small_models import small_resnet


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (3, 3), (2, 5)])
def test_block_covers_its_rectangle_only(size: tuple[int, int]) -> None:
    corners = (torch.rand(2, 3, 6, 7, generator=torch.Generator().manual_seed(0)) < 0.1).float()
    expected = np.zeros((2, 3, 5 + size[0], 6 + size[1]))
    for n, c, i, j in np.argwhere(corners.numpy() > 0):
        expected[n, c, i : i + size[0], j : j + size[1]] = 1
    assert expected.any()
    np.testing.assert_array_equal(spread_blocks(corners, size).numpy(), expected)


def test_dropped_share_and_mean() -> None:
    torch.manual_seed(0)
    maps = torch.ones(64, 16, 12, 12)
    dropped = drop_block(maps, 0.1, 3)
    chance = 0.1 * 144 / (9 * 100)
    expected = 1 - (1 - chance) ** 9  # in the middle of a map, 9 corners cover a position
    middle = (dropped[:, :, 3:9, 3:9] == 0).float().mean()
    assert float(middle) == pytest.approx(expected, rel=0.03)
    assert float(dropped.mean()) == pytest.approx(1.0, rel=1e-5)
    assert len(set(dropped.flatten().tolist())) == 2


def test_small_map_is_dropped_as_a_whole() -> None:
    torch.manual_seed(0)
    dropped = drop_block(torch.ones(100, 10, 2, 4), 0.3, 7).flatten(2)
    assert bool(((dropped == 0).all(2) | (dropped > 0).all(2)).all())
    assert float((dropped[..., 0] == 0).float().mean()) == pytest.approx(0.3, abs=0.05)


def test_evaluation_is_identity_and_keeps_half_precision() -> None:
    maps = torch.rand(2, 3, 8, 8)
    assert DropBlock(0.5, 3).eval()(maps) is maps
    assert DropBlock(0.5, 3)(maps.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("edit", "kind"),
    [(Dropout(0.2), nn.Dropout), (SpatialDropout(0.2), nn.Dropout2d), (DropBlocks(0.2, 3), DropBlock)],
)
def test_dropout_follows_each_branch(edit: Any, kind: type[nn.Module]) -> None:
    network: Any = edit(small_resnet())
    assert [n for n, m in network.named_modules() if isinstance(m, kind)] == [
        f"stages.{i}.0.bn2.drop" for i in range(3)
    ]
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(network.eval()(images), small_resnet().eval()(images))
    network.train()
    assert not torch.equal(network(images), network(images))


def test_drop_path_rates_are_linear() -> None:
    network = Depth(0.3)(small_resnet())
    assert [m.drop_prob for m in network.modules() if isinstance(m, DropPath)] == pytest.approx([0.1, 0.2, 0.3])
    uniform = Depth(0.3, "uniform", scope="stages.[12]")(small_resnet())
    assert [m.drop_prob for m in uniform.modules() if isinstance(m, DropPath)] == [0.3, 0.3]


def test_identity_at_the_end_of_a_branch_is_replaced() -> None:
    from imgrec.models import BACKBONES

    with torch.device("meta"):
        network = BACKBONES.build("vit_tiny_patch16_224", image_size=32, num_classes=2, load_weights=False).network
        names = list(network.state_dict())
        changed: Any = Depth(0.2, image_size=32)(network)
    assert isinstance(changed.blocks[0].drop_path1, DropPath)
    assert list(changed.state_dict()) == names
    with pytest.raises(UserError, match=r"has stochastic depth already, in blocks.0.drop_path1"):
        Depth(0.2, image_size=32)(changed)
    with pytest.raises(UserError, match=r"no map \(N, C, H, W\) with parts to drop"):
        SpatialDropout(0.2, image_size=32)(network)


@pytest.mark.parametrize("kind", [Dropout, SpatialDropout, DropBlocks, Depth])
def test_invalid_rate_raises(kind: Any) -> None:
    for rate in (-0.1, 1.0):
        with pytest.raises(UserError, match=r"rate: expected float in \[0, 1\), got"):
            kind(rate)
    with pytest.raises(UserError, match="size: expected int > 0, got 0"):
        DropBlocks(0.1, 0)
