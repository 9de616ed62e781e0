"""Pooling of feature maps to one vector per image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from timm.layers.attention_pool import AttentionPoolLatent
from torch import Tensor, nn

from imgrec.errors import UserError
from imgrec.registry import Registry
from imgrec.utils.ranges import PositiveFloat, PositiveInt, check_ranges


class Pooling(nn.Module):
    """Base class of poolings, which convert each map to a vector and concatenate the vectors of several maps.

    The constructor of a subclass has the parameter ``map_channels``, a fact with one number per map. The subclass
    overrides :meth:`pool`.

    Args:
        map_channels: Number of channels of each input map.
        factor: Number of features per channel. Defaults to 1.

    Shapes: a tuple of float ``(batch, channels, height, width)`` to ``(batch, feature_dim)``.

    >>> AveragePooling((8, 4))((torch.ones(2, 8, 4, 4), torch.ones(2, 4, 2, 2))).shape
    torch.Size([2, 12])
    """

    def __init__(self, map_channels: Sequence[int], factor: int = 1) -> None:
        super().__init__()
        self.feature_dim = factor * sum(map_channels)
        """Length of the feature vector."""

    def forward(self, maps: tuple[Tensor, ...]) -> Tensor:
        """Return the features."""
        return torch.cat([self.pool(each, number) for number, each in enumerate(maps)], dim=1)

    def pool(self, map_: Tensor, number: int) -> Tensor:
        """Return the vector of one map: ``(batch, channels, height, width)`` to ``(batch, factor * channels)``.

        ``number`` is the index of the map, for a pooling with parameters per map.
        """
        raise NotImplementedError


POOLINGS: Registry[Pooling] = Registry("pooling", "poolings")
"""Poolings by name."""


def generalized_mean(map_: Tensor, p: Tensor | float, eps: float = 1e-6) -> Tensor:
    """Return the ``p``-th root of the mean of the ``p``-th powers of each channel. 1 is the mean, infinity the maximum.

    Shapes: ``(batch, channels, height, width)`` to ``(batch, channels)``. Values below ``eps`` count as ``eps``. The
    computation uses float32, because powers leave the range of half precision.

    Source: Radenović, Tolias and Chum, Fine-tuning CNN Image Retrieval with No Human Annotation, 2018,
    arXiv:1711.02512.

    >>> generalized_mean(torch.tensor([[[[3.0, 4.0]]]]), 2.0) ** 2
    tensor([[12.5000]])
    """
    values = map_.float().clamp(min=eps)
    largest = values.amax(dim=(2, 3), keepdim=True)  # factored out, so that no power overflows
    mean = (values / largest).pow(p).mean(dim=(2, 3))
    return (mean.pow(1.0 / p) * largest.flatten(1)).to(map_.dtype)


@POOLINGS.register("average")
class AveragePooling(Pooling):
    """Mean of each channel.

    Args:
        map_channels: Number of channels of each input map, a fact of the backbone or neck.

    Shapes: a tuple of float ``(batch, channels, height, width)`` to ``(batch, sum of channels)``.

    Source: Lin, Chen and Yan, Network In Network, 2014, arXiv:1312.4400.

    Example: ``model: {backbone: resnet18, neck: fpn, pooling: average}``

    >>> AveragePooling((1,))((torch.tensor([[[[1.0, 3.0]]]]),))
    tensor([[2.]])
    """

    def __init__(self, map_channels: tuple[int, ...]) -> None:
        super().__init__(map_channels)

    def pool(self, map_: Tensor, number: int) -> Tensor:
        """Return the means."""
        return map_.mean(dim=(2, 3))


@POOLINGS.register("max")
class MaxPooling(Pooling):
    """Maximum of each channel.

    Args:
        map_channels: Number of channels of each input map, a fact of the backbone or neck.

    Shapes: a tuple of float ``(batch, channels, height, width)`` to ``(batch, sum of channels)``.

    See Also:
        :class:`GeMPooling`. Use it instead to learn a pooling between mean and maximum.

    Source: Oquab et al., Is object localization for free?, 2015, CVPR.

    Example: ``model: {backbone: resnet18, pooling: max}``

    >>> MaxPooling((1,))((torch.tensor([[[[1.0, 3.0]]]]),))
    tensor([[3.]])
    """

    def __init__(self, map_channels: tuple[int, ...]) -> None:
        super().__init__(map_channels)

    def pool(self, map_: Tensor, number: int) -> Tensor:
        """Return the maxima."""
        return map_.amax(dim=(2, 3))


@POOLINGS.register("average_max")
class AverageMaxPooling(Pooling):
    """Average of the mean and the maximum of each channel, or both concatenated.

    Args:
        map_channels: Number of channels of each input map, a fact of the backbone or neck.
        concatenate: ``True`` returns mean and maximum as separate features. Defaults to ``False``.

    Shapes: a tuple of float ``(batch, channels, height, width)`` to ``(batch, sum of channels)``, or twice that.

    Source: Lee, Gallagher and Tu, Generalizing Pooling Functions in Convolutional Neural Networks, 2016,
    arXiv:1509.08985 (mixed pooling).

    Example: ``model: {backbone: resnet18, pooling: {name: average_max, concatenate: true}}``

    >>> AverageMaxPooling((1,))((torch.tensor([[[[1.0, 3.0]]]]),))
    tensor([[2.5000]])
    """

    def __init__(self, map_channels: tuple[int, ...], concatenate: bool = False) -> None:
        super().__init__(map_channels, factor=2 if concatenate else 1)
        self.concatenate = concatenate

    def pool(self, map_: Tensor, number: int) -> Tensor:
        """Return the means and the maxima."""
        mean, largest = map_.mean(dim=(2, 3)), map_.amax(dim=(2, 3))
        return torch.cat([mean, largest], dim=1) if self.concatenate else 0.5 * (mean + largest)


@POOLINGS.register("gem")
class GeMPooling(Pooling):
    """Generalized mean of each channel, between mean and maximum, with a learned exponent.

    Args:
        map_channels: Number of channels of each input map, a fact of the backbone or neck.
        p: Initial exponent, above 0. 1 is the mean, and large values approach the maximum. Defaults to 3.
        learnable: ``True`` trains one exponent per map, stored as its logarithm. Defaults to ``True``.
        eps: Lower bound of the values, above 0. It has no effect on maps after a ReLU. Defaults to 1e-6.

    Shapes: a tuple of float ``(batch, channels, height, width)`` to ``(batch, sum of channels)``.

    Raises:
        UserError: If ``p`` or ``eps`` is out of range.

    Source: Radenović, Tolias and Chum, Fine-tuning CNN Image Retrieval with No Human Annotation, 2018,
    arXiv:1711.02512.

    Example: ``model: {backbone: resnet18, pooling: {name: gem, p: 4}}``

    >>> GeMPooling((1,), p=2.0)((torch.tensor([[[[3.0, 4.0]]]]),)) ** 2
    tensor([[12.5000]], grad_fn=<PowBackward0>)
    """

    log_p: Tensor

    @check_ranges
    def __init__(
        self, map_channels: tuple[int, ...], p: PositiveFloat = 3.0, learnable: bool = True, eps: PositiveFloat = 1e-6
    ) -> None:
        super().__init__(map_channels)
        self.eps = eps
        log_p = torch.full((len(map_channels),), float(p)).log()
        if learnable:
            self.log_p = nn.Parameter(log_p)
        else:
            self.register_buffer("log_p", log_p)

    def pool(self, map_: Tensor, number: int) -> Tensor:
        """Return the generalized means."""
        return generalized_mean(map_, self.log_p[number].float().exp(), self.eps)


@POOLINGS.register("attention")
class AttentionPooling(Pooling):
    """Attention of a learned query over all positions of a map, followed by an MLP.

    Args:
        map_channels: Number of channels of each input map. Each map has its own query, projections and MLP.
        heads: Number of attention heads, a divisor of the channels. Defaults to 8.
        mlp_ratio: Width of the MLP relative to the channels. Defaults to 4.

    Shapes: a tuple of float ``(batch, channels, height, width)`` to ``(batch, sum of channels)``.

    Raises:
        UserError: If ``heads`` does not divide the channels, or if the MLP has no channel.

    Source: Lee et al., Set Transformer, 2019, arXiv:1810.00825 (pooling by multihead attention); for images Zhai et
    al., Scaling Vision Transformers, 2022, arXiv:2106.04560 (the MAP head), as timm computes it.

    Example: ``model: {backbone: resnet18, pooling: {name: attention, heads: 4}}``

    >>> AttentionPooling((16,), heads=2)((torch.ones(2, 16, 4, 4),)).shape
    torch.Size([2, 16])
    """

    @check_ranges
    def __init__(self, map_channels: tuple[int, ...], heads: PositiveInt = 8, mlp_ratio: PositiveFloat = 4.0) -> None:
        super().__init__(map_channels)
        for channels in map_channels:
            if channels % heads:
                raise UserError(f"heads: expected a divisor of the {channels} channels of a map, got {heads}.")
            if int(channels * mlp_ratio) < 1:
                raise UserError(
                    f"mlp_ratio: expected at least 1 / {channels}, for one hidden channel, got {mlp_ratio}."
                )
        self.each = nn.ModuleList(
            AttentionPoolLatent(channels, num_heads=heads, mlp_ratio=mlp_ratio, norm_layer=nn.LayerNorm)
            for channels in map_channels
        )

    def pool(self, map_: Tensor, number: int) -> Tensor:
        """Return the output of the attention and the MLP."""
        pooled: Tensor = self.each[number](map_.flatten(2).transpose(1, 2))
        return pooled
