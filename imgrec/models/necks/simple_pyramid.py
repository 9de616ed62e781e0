"""A pyramid out of one map, for networks whose maps are all of one size."""

from __future__ import annotations

from torch import Tensor, nn

from imgrec.errors import UserError
from imgrec.models.necks.base import NECKS, Neck, Norm, check_arguments, chosen_levels, convolution, norm_layer
from imgrec.models.utils.activations import Activation

_SCALES = (4.0, 2.0, 1.0, 0.5)


@NECKS.register("simple_pyramid")
class SimplePyramid(Neck):
    """Simple feature pyramid: maps of several sizes made out of the last map alone, for a plain transformer.

    Transposed convolutions make it finer, a maximum over 2 x 2 pixels coarser; a 1x1 and a 3x3 convolution end each
    map. Nothing is fused: the stages of a plain transformer all have the same size, and its last one knows most. The
    classifier pools each map that comes out, and puts the vectors side by side.

    Args:
        map_channels: the channels of each map of the backbone, fine to coarse.
        map_sizes: the height of each, in pixels.
        channels: of the maps that it gives.
        scales: how many times as fine as the last map each of them is, among 4, 2, 1 and 0.5.
        level: the number of the map that it takes.
        norm: what stands behind its convolutions.
        activation: what ends each map that it gives; the paper has ``identity``.

    Shapes: one map a scale, float ``(batch, channels, height, width)``.

    Raises:
        UserError: a scale that is not one of these, or that makes a map smaller than a pixel.

    Source: Li et al., Exploring Plain Vision Transformer Backbones for Object Detection, 2022, arXiv:2203.16527.

    Example: ``model: {backbone: vit_tiny_patch16_224, neck: {name: simple_pyramid, scales: [2, 1]}}``

    >>> import torch
    >>> neck = SimplePyramid(map_channels=(16, 16), map_sizes=(4, 4), channels=12)
    >>> [tuple(each.shape) for each in neck((torch.ones(2, 16, 4, 4),))]
    [(2, 12, 8, 8), (2, 12, 4, 4), (2, 12, 2, 2)]
    """

    def __init__(
        self,
        map_channels: tuple[int, ...],
        map_sizes: tuple[int, ...],
        channels: int = 128,
        scales: list[float] | None = None,
        level: int = -1,
        norm: Norm = "layer",
        activation: Activation = "relu",
    ) -> None:
        check_arguments(channels, norm, activation)
        wanted = [2.0, 1.0, 0.5] if scales is None else sorted(scales, reverse=True)
        if not wanted or len(set(wanted)) < len(wanted) or not set(wanted) <= set(_SCALES):
            raise UserError(f"`scales` are some of 4, 2, 1 and 0.5, each once, got {scales}")
        chosen = chosen_levels([level], map_channels, map_sizes)
        width, size = map_channels[chosen[0]], map_sizes[chosen[0]]
        if size * wanted[-1] < 1:
            raise UserError(f"a map of {size} x {size} pixels cannot be halved: leave 0.5 out of `scales`")
        super().__init__(chosen, [channels] * len(wanted))
        self.sized = nn.ModuleList(_sized(width, scale, norm) for scale in wanted)
        self.mixed = nn.ModuleList(
            nn.Sequential(
                convolution(width // _divisor(scale), channels, 1, 1, norm),
                convolution(channels, channels, 3, 1, norm, activation),
            )
            for scale in wanted
        )

    def forward(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The maps, fine to coarse."""
        return tuple(mix(sized(maps[0])) for sized, mix in zip(self.sized, self.mixed, strict=True))


def _divisor(scale: float) -> int:
    """By what the channels are divided on the way to a scale."""
    return int(max(1.0, scale))


def _sized(channels: int, scale: float, norm: Norm) -> nn.Module:
    if scale == 0.5:
        return nn.MaxPool2d(2)
    if scale == 1.0:
        return nn.Identity()
    first: list[nn.Module] = [nn.ConvTranspose2d(channels, channels // 2, 2, 2)]
    if scale == 4.0:
        between: list[nn.Module] = [] if norm == "none" else [norm_layer(norm, channels // 2)]
        first += [*between, nn.GELU(), nn.ConvTranspose2d(channels // 2, channels // 4, 2, 2)]
    return nn.Sequential(*first)
