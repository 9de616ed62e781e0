"""A small residual network made for images of 32 pixels: three stages, a few wide convolutions, fast on one core."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor, nn

from imgrec.errors import UserError
from imgrec.models.backbones.base import Backbone
from imgrec.models.backbones.catalogue import BACKBONES
from imgrec.models.backbones.small_images import as_backbone, weights_of

Activation = Literal["relu", "gelu", "silu"]


def convolution(
    in_channels: int, out_channels: int, activation: Activation, stride: int = 1, pool: bool = False
) -> nn.Sequential:
    """3x3 convolution, on request halved by a maximum, batch norm, activation.

    The maximum stands before the norm, so that a quarter of the values has to be normalized.
    """
    functions: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU}
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False),
        nn.MaxPool2d(2) if pool else nn.Identity(),
        nn.BatchNorm2d(out_channels),
        functions[activation](),
    )


class Residual(nn.Module):
    """What so many convolutions of the same width add to their input."""

    def __init__(self, channels: int, depth: int, activation: Activation) -> None:
        super().__init__()
        self.branch = nn.Sequential(*(convolution(channels, channels, activation) for _ in range(depth)))

    def forward(self, images: Tensor) -> Tensor:
        """Shapes: ``(batch, channels, height, width)`` in and out."""
        added: Tensor = images + self.branch(images)
        return added


class ResNet9(nn.Module):
    """A stem, then stages that each halve the image, widen it, and add residual blocks; the largest value of each map.

    Args:
        in_channels: the channels of the images.
        channels: the width of the stem, then of each stage.
        blocks: the residual blocks of each stage.
        block_depth: the convolutions of a block.
        stem_stride: 2 halves the image at once: four times less work.
        activation: ``relu``, ``gelu`` or ``silu``.
        scale: what the features are multiplied by, in place of a temperature of the logits.

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
        self.stem = convolution(in_channels, channels[0], activation, stride=stem_stride)
        self.stages = nn.Sequential(
            *(
                nn.Sequential(
                    convolution(before, after, activation, pool=True),
                    *(Residual(after, block_depth, activation) for _ in range(count)),
                )
                for before, after, count in zip(channels[:-1], channels[1:], blocks, strict=True)
            )
        )

    def forward(self, images: Tensor) -> Tensor:
        """The features of normalized images."""
        features: Tensor = self.stages(self.stem(images)).amax(dim=(2, 3)) * self.scale
        return features


@BACKBONES.register("resnet9")
def resnet9(
    channels: list[int] | None = None,
    blocks: list[int] | None = None,
    block_depth: int = 2,
    stem_stride: Literal[1, 2] = 1,
    activation: Activation = "relu",
    scale: float = 0.125,
    in_channels: int = 3,
    image_size: int = 32,
    weights: str | None = None,
    load_weights: bool = True,
) -> Backbone:
    """ResNet-9: for images of 28 to 64 pixels, a few wide convolutions that train in minutes.

    Args:
        channels: the width of the stem, then of each stage; by default 64, 128, 256, 512.
        blocks: the residual blocks of each stage; by default 1, 0, 1.
        block_depth: the convolutions of a block.
        stem_stride: 2 halves the image in the first convolution, which makes everything after it four times cheaper.
        activation: ``relu``, ``gelu`` or ``silu``.
        scale: what the features are multiplied by; the logits of a linear head scale with it.
        in_channels: the number of channels of the images.
        image_size: the side of the images, in pixels.
        weights: a local model folder or a safetensors file with this network's tensors, to start from.
        load_weights: whether to load them; not where a checkpoint follows.

    Raises:
        UserError: widths and blocks that do not go together, images that are too small, weights that do not fit.

    Source: Page, How to Train Your ResNet, 2018, https://github.com/davidcpage/cifar10-fast (the network);
    Jordan, 94% on CIFAR-10 in 3.29 Seconds on a Single GPU, 2024, arXiv:2404.00498 (the maximum before the norm).

    >>> sum(p.numel() for p in resnet9().parameters())
    6568000
    """
    check_arguments(channels, blocks, block_depth, scale)
    widths, counts = [64, 128, 256, 512] if channels is None else channels, [1, 0, 1] if blocks is None else blocks
    network = ResNet9(in_channels, widths, counts, block_depth, stem_stride, activation, scale)
    return as_backbone(network, "resnet9", weights, load_weights, in_channels, image_size)


def check_arguments(
    channels: list[int] | None = None,
    blocks: list[int] | None = None,
    block_depth: int = 2,
    scale: float = 0.125,
    **_: Any,
) -> None:
    """Raise :class:`UserError` for arguments of :func:`resnet9` that do not go together, without building anything."""
    widths, counts = [64, 128, 256, 512] if channels is None else channels, [1, 0, 1] if blocks is None else blocks
    if len(widths) < 2 or min(widths) < 1:
        raise UserError(f"`channels` are the widths of the stem and of one stage at least, got {widths}.")
    if len(counts) != len(widths) - 1 or min(counts) < 0:
        raise UserError(
            f"`blocks` must be {len(widths) - 1} numbers of residual blocks, one for each width of `channels` after "
            f"the stem's, got {counts}."
        )
    if block_depth < 1:
        raise UserError(f"`block_depth` must be 1 or more, got {block_depth}.")
    if scale <= 0:
        raise UserError(f"`scale` must be above 0, got {scale}.")


vars(resnet9).update(check_arguments=check_arguments, check_weights=weights_of("resnet9"))
