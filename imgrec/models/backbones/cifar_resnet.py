"""The residual networks made for CIFAR-10: ResNet-20, 32, 44, 56 and 110, few channels and many layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from imgrec.errors import UserError
from imgrec.models.backbones.base import Backbone
from imgrec.models.backbones.catalogue import BACKBONES
from imgrec.models.backbones.small_images import as_backbone, weights_of

WIDTHS = (16, 32, 64)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions whose result is added to their input, which a 1x1 convolution fits where shapes differ."""

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

    def forward(self, images: Tensor) -> Tensor:
        """Shapes: ``(batch, channels, height, width)``; a stride of 2 halves the image."""
        branch = self.bn2(self.conv2(self.act1(self.bn1(self.conv1(images)))))
        added: Tensor = self.act2(branch + self.shortcut(images))
        return added


class CifarResNet(nn.Module):
    """A 3x3 convolution, then stages of so many blocks; each but the first halves the image; the mean of each map.

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
        """The features of normalized images."""
        features: Tensor = self.pool(self.stages(self.act1(self.bn1(self.conv1(images))))).flatten(1)
        return features


@BACKBONES.register("cifar_resnet")
def cifar_resnet(
    depth: int = 20,
    widths: list[int] | None = None,
    in_channels: int = 3,
    image_size: int = 32,
    weights: str | None = None,
    load_weights: bool = True,
) -> Backbone:
    """ResNet-20, 32, 44, 56 or 110 as they were made for CIFAR-10: three narrow stages of basic blocks.

    Where a stage begins, the input is fitted by a 1x1 convolution (the paper's option B; its networks for CIFAR-10 pad
    with zeros): that is 0.01 M parameters more, and every channel can be pruned.

    Args:
        depth: the layers, 6n + 2: n blocks in each of three stages.
        widths: the channels of each stage; by default 16, 32, 64.
        in_channels: the number of channels of the images.
        image_size: the side of the images, in pixels.
        weights: a local model folder or a safetensors file with this network's tensors, to start from.
        load_weights: whether to load them; not where a checkpoint follows.

    Raises:
        UserError: a depth or widths that cannot be, images that are too small, weights that do not fit.

    Source: He et al., 2015, "Deep residual learning for image recognition", arXiv 1512.03385, section 4.2.

    >>> sum(p.numel() for p in cifar_resnet(20).parameters())
    271824
    """
    check_arguments(depth, widths)
    network = CifarResNet(in_channels, widths or WIDTHS, (depth - 2) // 6)
    return as_backbone(network, "cifar_resnet", weights, load_weights, in_channels, image_size)


def check_arguments(depth: int = 20, widths: list[int] | None = None, **_: Any) -> None:
    """Raise :class:`UserError` for arguments of :func:`cifar_resnet` that cannot be, without building anything."""
    if depth < 8 or depth % 6 != 2:
        raise UserError(f"`depth` is 6n + 2, such as 8, 14, 20, 32, 44, 56 or 110, got {depth}.")
    if widths is not None and (len(widths) != 3 or min(widths) < 1):
        raise UserError(f"`widths` are the channels of three stages, got {widths}.")


vars(cifar_resnet).update(check_arguments=check_arguments, check_weights=weights_of("cifar_resnet"))
