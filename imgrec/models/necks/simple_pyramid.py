"""Simple feature pyramid from one map, for networks whose maps all have one size."""

from __future__ import annotations

from torch import Tensor, nn

from imgrec.errors import UserError
from imgrec.models.necks.base import NECKS, Neck, Norm, convolution, norm_layer, select_levels
from imgrec.models.utils.activations import Activation
from imgrec.utils.ranges import PositiveInt, check_ranges

_SCALES = (4.0, 2.0, 1.0, 0.5)


@NECKS.register("simple_pyramid")
class SimplePyramid(Neck):
    """Simple feature pyramid: the last map at several sizes, for a plain transformer.

    Transposed convolutions upsample it, and a 2 x 2 max pooling downsamples it. A 1x1 and a 3x3 convolution follow.
    Nothing is fused, because the stages of a plain transformer all have the same size and the last one has the most
    information. The pooling is applied to each output map, and the vectors are concatenated.

    Args:
        map_channels: Number of channels of each map of the backbone, fine to coarse, a fact of the backbone.
        map_sizes: Height of each map in pixels, a fact of the backbone.
        channels: Number of channels of the output maps, at least 1. Defaults to 128.
        scales: Sizes of the output maps relative to the input map, some of 4, 2, 1 and 0.5. Defaults to 2, 1, 0.5.
        level: Index of the input map. Defaults to the last one.
        norm: Normalization after the convolutions. Defaults to ``layer``.
        activation: Activation of the output maps. The paper uses ``identity``. Defaults to ``relu``.

    Shapes: one map per scale, float ``(batch, channels, height, width)``.

    Raises:
        UserError: If a scale is none of these, or if a map would be smaller than a pixel.

    See Also:
        :class:`imgrec.models.FPN`. Use it instead if the backbone has maps of several sizes.

    Source: Li et al., Exploring Plain Vision Transformer Backbones for Object Detection, 2022, arXiv:2203.16527.

    Example: ``model: {backbone: vit_tiny_patch16_224, neck: {name: simple_pyramid, scales: [2, 1]}}``

    >>> import torch
    >>> neck = SimplePyramid(map_channels=(16, 16), map_sizes=(4, 4), channels=12)
    >>> [tuple(each.shape) for each in neck((torch.ones(2, 16, 4, 4),))]
    [(2, 12, 8, 8), (2, 12, 4, 4), (2, 12, 2, 2)]
    """

    @check_ranges
    def __init__(
        self,
        map_channels: tuple[int, ...],
        map_sizes: tuple[int, ...],
        channels: PositiveInt = 128,
        scales: list[float] | None = None,
        level: int = -1,
        norm: Norm = "layer",
        activation: Activation = "relu",
    ) -> None:
        ordered = [2.0, 1.0, 0.5] if scales is None else sorted(scales, reverse=True)
        if not ordered or len(set(ordered)) < len(ordered) or not set(ordered) <= set(_SCALES):
            raise UserError(f"scales: expected some of 4, 2, 1 and 0.5, each once, got {scales}.")
        selected = select_levels([level], map_channels, map_sizes)
        width, size = map_channels[selected[0]], map_sizes[selected[0]]
        if size * ordered[-1] < 1:
            raise UserError(f"scales: a map of {size} x {size} pixels cannot be halved. Remove 0.5.")
        super().__init__(selected, [channels] * len(ordered))
        self.sized = nn.ModuleList(_make_resize(width, scale, norm) for scale in ordered)
        self.mixed = nn.ModuleList(
            nn.Sequential(
                convolution(width // _divisor(scale), channels, 1, 1, norm),
                convolution(channels, channels, 3, 1, norm, activation),
            )
            for scale in ordered
        )

    def forward(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the maps, fine to coarse."""
        return tuple(mix(sized(maps[0])) for sized, mix in zip(self.sized, self.mixed, strict=True))


def _divisor(scale: float) -> int:
    """Return the factor by which the channels are divided for a scale."""
    return int(max(1.0, scale))


def _make_resize(channels: int, scale: float, norm: Norm) -> nn.Module:
    if scale == 0.5:
        return nn.MaxPool2d(2)
    if scale == 1.0:
        return nn.Identity()
    first: list[nn.Module] = [nn.ConvTranspose2d(channels, channels // 2, 2, 2)]
    if scale == 4.0:
        between: list[nn.Module] = [] if norm == "none" else [norm_layer(norm, channels // 2)]
        first += [*between, nn.GELU(), nn.ConvTranspose2d(channels // 2, channels // 4, 2, 2)]
    return nn.Sequential(*first)
