"""ResNet-9: a small residual network of wide convolutions for images of 32 pixels, fast on one core."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor, nn

from imgrec.errors import UserError
from imgrec.models.backbones.base import Backbone
from imgrec.models.backbones.catalogue import BACKBONES
from imgrec.models.backbones.small_images import build_backbone, make_weights_check
from imgrec.utils.ranges import NonNegativeInt, PositiveFloat, PositiveInt, check_ranges

Activation = Literal["relu", "gelu", "silu"]


def conv_norm_act(
    in_channels: int, out_channels: int, activation: Activation, stride: int = 1, pool: bool = False
) -> nn.Sequential:
    """Return a 3x3 convolution, an optional max pooling, batch normalization and an activation.

    The pooling precedes the normalization, which then has a quarter of the values.
    """
    functions: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU}
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False),
        nn.MaxPool2d(2) if pool else nn.Identity(),
        nn.BatchNorm2d(out_channels),
        functions[activation](),
    )


class Residual(nn.Module):
    """Residual block of ``depth`` convolutions of one width."""

    def __init__(self, channels: int, depth: int, activation: Activation) -> None:
        super().__init__()
        self.branch = nn.Sequential(*(conv_norm_act(channels, channels, activation) for _ in range(depth)))

    def forward(self, maps: Tensor) -> Tensor:
        """Return the output of the block, ``(batch, channels, height, width)`` as its input."""
        output: Tensor = maps + self.branch(maps)
        return output


class ResNet9(nn.Module):
    """A stem, stages that halve and widen the maps and contain residual blocks, and global max pooling.

    Args:
        in_channels: Number of channels of the images.
        channels: Width of the stem, then of each stage.
        blocks: Number of residual blocks of each stage.
        block_depth: Number of convolutions of a block.
        stem_stride: Stride of the stem. 2 makes the network four times cheaper.
        activation: ``relu``, ``gelu`` or ``silu``.
        scale: Factor on the features, instead of a temperature of the logits.

    Shapes: float ``(batch, in_channels, height, width)`` to ``(batch, channels[-1])``.
    """

    def __init__(
        self,
        in_channels: int,
        channels: Sequence[int],
        blocks: Sequence[int],
        block_depth: int,
        stem_stride: int,
        activation: Activation,
        scale: float,
    ) -> None:
        super().__init__()
        self.num_features = channels[-1]
        self.stage_modules = (("stem",), *((f"stages.{i}",) for i in range(len(blocks))))
        self.scale = scale
        self.stem = conv_norm_act(in_channels, channels[0], activation, stride=stem_stride)
        self.stages = nn.Sequential(
            *(
                nn.Sequential(
                    conv_norm_act(before, after, activation, pool=True),
                    *(Residual(after, block_depth, activation) for _ in range(count)),
                )
                for before, after, count in zip(channels[:-1], channels[1:], blocks, strict=True)
            )
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return the features of normalized images."""
        features: Tensor = self.stages(self.stem(images)).amax(dim=(2, 3)) * self.scale
        return features


@BACKBONES.register("resnet9")
@check_ranges
def resnet9(
    channels: list[PositiveInt] | None = None,
    blocks: list[NonNegativeInt] | None = None,
    block_depth: PositiveInt = 2,
    stem_stride: Literal[1, 2] = 1,
    activation: Activation = "relu",
    scale: PositiveFloat = 0.125,
    in_channels: int = 3,
    image_size: int = 32,
    weights: str | None = None,
    load_weights: bool = True,
) -> Backbone:
    """Build ResNet-9 for images of 28 to 64 pixels: a few wide convolutions that train in minutes.

    Args:
        channels: Width of the stem, then of each stage. Defaults to 64, 128, 256, 512.
        blocks: Number of residual blocks of each stage. Defaults to 1, 0, 1.
        block_depth: Number of convolutions of a block, at least 1. Defaults to 2.
        stem_stride: Stride of the first convolution. 2 makes all later layers four times cheaper. Defaults to 1.
        activation: ``relu``, ``gelu`` or ``silu``. Defaults to ``relu``.
        scale: Factor on the features, above 0. The logits of a linear head scale with it. Defaults to 0.125.
        in_channels: Number of channels of the images, a fact of the data.
        image_size: Height and width of the images in pixels, a fact of the data.
        weights: Local model folder or safetensors file with initial weights of this network.
        load_weights: ``False`` skips ``weights``, for example before a checkpoint is loaded. Defaults to ``True``.

    Raises:
        UserError: If ``channels`` and ``blocks`` do not match, if the images are too small, or if the weights do not
            fit.

    Source: Page, How to Train Your ResNet, 2018, https://github.com/davidcpage/cifar10-fast (the network);
    Jordan, 94% on CIFAR-10 in 3.29 Seconds on a Single GPU, 2024, arXiv:2404.00498 (the maximum before the norm).

    >>> sum(p.numel() for p in resnet9().parameters())
    6568000
    """
    _check_arguments(channels, blocks)
    widths, counts = [64, 128, 256, 512] if channels is None else channels, [1, 0, 1] if blocks is None else blocks
    network = ResNet9(in_channels, widths, counts, block_depth, stem_stride, activation, scale)
    return build_backbone(network, "resnet9", weights, load_weights, in_channels, image_size)


def _check_arguments(
    channels: list[int] | None = None,
    blocks: list[int] | None = None,
    block_depth: int = 2,
    scale: float = 0.125,
    **_: Any,
) -> None:
    """Raise an error if ``channels`` and ``blocks`` of :func:`resnet9` do not match."""
    widths, counts = [64, 128, 256, 512] if channels is None else channels, [1, 0, 1] if blocks is None else blocks
    if len(widths) < 2:
        raise UserError(f"channels: expected the widths of the stem and of at least one stage, got {widths}.")
    if len(counts) != len(widths) - 1:
        raise UserError(
            f"blocks: expected {len(widths) - 1} numbers of residual blocks, one per stage of `channels`, got {counts}."
        )


vars(resnet9).update(check_arguments=_check_arguments, check_weights=make_weights_check("resnet9"))
