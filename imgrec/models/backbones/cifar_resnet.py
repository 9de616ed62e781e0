"""Residual networks for CIFAR-10: ResNet-20, 32, 44, 56 and 110, with few channels and many layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from imgrec.errors import UserError
from imgrec.models.backbones.base import Backbone
from imgrec.models.backbones.catalogue import BACKBONES
from imgrec.models.backbones.small_images import build_backbone, make_weights_check
from imgrec.utils.ranges import PositiveInt, check_ranges

WIDTHS = (16, 32, 64)


class BasicBlock(nn.Module):
    """Residual block of two 3x3 convolutions, with a 1x1 convolution as shortcut if the shapes differ."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.act1 = nn.ReLU()
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )
        self.act2 = nn.ReLU()

    def forward(self, maps: Tensor) -> Tensor:
        """Return the output, ``(batch, out_channels, height / stride, width / stride)``."""
        branch = self.bn2(self.conv2(self.act1(self.bn1(self.conv1(maps)))))
        output: Tensor = self.act2(branch + self.shortcut(maps))
        return output


class CifarResNet(nn.Module):
    """A 3x3 convolution, three stages of residual blocks and global average pooling.

    Args:
        in_channels: Number of channels of the images.
        widths: Number of channels of each stage.
        blocks: Number of blocks of each stage.

    Shapes: float ``(batch, in_channels, height, width)`` to ``(batch, widths[-1])``.
    """

    def __init__(self, in_channels: int, widths: Sequence[int], blocks: int) -> None:
        super().__init__()
        self.num_features = widths[-1]
        self.stage_modules = (("conv1", "bn1", "act1", "stages.0"), ("stages.1",), ("stages.2",))
        self.conv1 = nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.act1 = nn.ReLU()
        self.stages = nn.Sequential()
        for stage, (before, width) in enumerate(zip((widths[0], *widths[:-1]), widths, strict=True)):
            first = BasicBlock(before, width, stride=2 if stage else 1)
            self.stages.append(nn.Sequential(first, *(BasicBlock(width, width, 1) for _ in range(blocks - 1))))
        self.pool = nn.AdaptiveAvgPool2d(1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Return the features of normalized images."""
        features: Tensor = self.pool(self.stages(self.act1(self.bn1(self.conv1(images))))).flatten(1)
        return features


@BACKBONES.register("cifar_resnet")
@check_ranges
def cifar_resnet(
    depth: PositiveInt = 20,
    widths: list[PositiveInt] | None = None,
    in_channels: int = 3,
    image_size: int = 32,
    weights: str | None = None,
    load_weights: bool = True,
) -> Backbone:
    """Build ResNet-20, 32, 44, 56 or 110 for CIFAR-10: three narrow stages of basic blocks.

    A 1x1 convolution is the shortcut at the start of a stage (option B of the paper, whose networks for CIFAR-10 pad
    with zeros). It adds 0.01 M parameters, and every channel can be pruned.

    Args:
        depth: Number of layers, 6n + 2 for n blocks per stage. Defaults to 20.
        widths: Number of channels of each of the three stages. Defaults to 16, 32, 64.
        in_channels: Number of channels of the images, a fact of the data.
        image_size: Height and width of the images in pixels, a fact of the data.
        weights: Local model folder or safetensors file with initial weights of this network.
        load_weights: ``False`` skips ``weights``, for example before a checkpoint is loaded. Defaults to ``True``.

    Raises:
        UserError: If ``depth`` or ``widths`` is invalid, if the images are too small, or if the weights do not fit.

    See Also:
        :func:`imgrec.models.backbones.resnet9.resnet9`. Use it instead if training time matters most.

    Source: He et al., Deep residual learning for image recognition, 2015, arXiv:1512.03385, section 4.2.

    >>> sum(p.numel() for p in cifar_resnet(20).parameters())
    271824
    """
    _check_arguments(depth, widths)
    network = CifarResNet(in_channels, widths or WIDTHS, (depth - 2) // 6)
    return build_backbone(network, "cifar_resnet", weights, load_weights, in_channels, image_size)


def _check_arguments(depth: int = 20, widths: list[int] | None = None, **_: Any) -> None:
    """Raise an error if ``depth`` or ``widths`` of :func:`cifar_resnet` is invalid."""
    if depth < 8 or depth % 6 != 2:
        raise UserError(f"depth: expected 6n + 2, such as 8, 14, 20, 32, 44, 56 or 110, got {depth}.")
    if widths is not None and len(widths) != 3:
        raise UserError(f"widths: expected the channels of three stages, got {widths}.")


vars(cifar_resnet).update(check_arguments=_check_arguments, check_weights=make_weights_check("cifar_resnet"))
