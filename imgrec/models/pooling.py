"""What makes one vector an image out of maps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from timm.layers.attention_pool import AttentionPoolLatent
from torch import Tensor, nn

from imgrec.errors import UserError
from imgrec.registry import Registry


class Pooling(nn.Module):
    """Makes a vector of each map; of several maps, the vectors stand side by side.

    A subclass names in its constructor the fact ``map_channels``, one number a map, and overrides :meth:`pool`.

    Args:
        map_channels: the channels of each map that it is given.
        factor: how many features it makes of a channel.

    Shapes: a tuple of float ``(batch, channels, height, width)`` to ``(batch, feature_dim)``.

    >>> AveragePooling((8, 4))((torch.ones(2, 8, 4, 4), torch.ones(2, 4, 2, 2))).shape
    torch.Size([2, 12])
    """

    def __init__(self, map_channels: Sequence[int], factor: int = 1) -> None:
        super().__init__()
        self.feature_dim = factor * sum(map_channels)
        """The length of the vector."""

    def forward(self, maps: tuple[Tensor, ...]) -> Tensor:
        """The features."""
        return torch.cat([self.pool(each, number) for number, each in enumerate(maps)], dim=1)

    def pool(self, map_: Tensor, number: int) -> Tensor:
        """The vector of one map: ``(batch, channels, height, width)`` to ``(batch, factor * channels)``.

        ``number`` says which of the maps it is, for a pooling that learns something of each.
        """
        raise NotImplementedError


POOLINGS: Registry[Pooling] = Registry("pooling", "poolings")
"""Poolings by name."""


def generalized_mean(map_: Tensor, p: Tensor | float, eps: float = 1e-6) -> Tensor:
    """The ``p``-th root of the mean of the ``p``-th powers of each channel: 1 is the mean, and infinity the maximum.

    Shapes: ``(batch, channels, height, width)`` to ``(batch, channels)``. Values below ``eps`` count as ``eps``. It is
    computed in float32: powers leave the range of half precision.

    Source: Radenović, Tolias and Chum, Fine-tuning CNN Image Retrieval with No Human Annotation, 2018,
    arXiv:1711.02512.

    >>> generalized_mean(torch.tensor([[[[3.0, 4.0]]]]), 2.0) ** 2
    tensor([[12.5000]])
    """
    values = map_.float().clamp(min=eps)
    largest = values.amax(dim=(2, 3), keepdim=True)  # taken out, so that no power overflows
    mean = (values / largest).pow(p).mean(dim=(2, 3))
    return (mean.pow(1.0 / p) * largest.flatten(1)).to(map_.dtype)


@POOLINGS.register("average")
class AveragePooling(Pooling):
    """The mean of each channel.

    Args:
        map_channels: the channels of each map that it is given.

    Shapes: a tuple of float ``(batch, channels, height, width)`` to ``(batch, sum of channels)``.

    Source: Lin, Chen and Yan, Network In Network, 2014, arXiv:1312.4400.

    Example: ``model: {backbone: resnet18, neck: fpn, pooling: average}``

    >>> AveragePooling((1,))((torch.tensor([[[[1.0, 3.0]]]]),))
    tensor([[2.]])
    """

    def __init__(self, map_channels: tuple[int, ...]) -> None:
        super().__init__(map_channels)

    def pool(self, map_: Tensor, number: int) -> Tensor:
        """The means."""
        return map_.mean(dim=(2, 3))


@POOLINGS.register("max")
class MaxPooling(Pooling):
    """The largest value of each channel.

    Args:
        map_channels: the channels of each map that it is given.

    Shapes: a tuple of float ``(batch, channels, height, width)`` to ``(batch, sum of channels)``.

    Source: Oquab et al., Is object localization for free?, 2015, CVPR.

    Example: ``model: {backbone: resnet18, pooling: max}``

    >>> MaxPooling((1,))((torch.tensor([[[[1.0, 3.0]]]]),))
    tensor([[3.]])
    """

    def __init__(self, map_channels: tuple[int, ...]) -> None:
        super().__init__(map_channels)

    def pool(self, map_: Tensor, number: int) -> Tensor:
        """The largest values."""
        return map_.amax(dim=(2, 3))


@POOLINGS.register("average_max")
class AverageMaxPooling(Pooling):
    """Half the mean and half the largest value of each channel, or both side by side.

    Args:
        map_channels: the channels of each map that it is given.
        concatenate: mean and largest value stand side by side, and there are twice as many features.

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
        """The means and the largest values."""
        mean, largest = map_.mean(dim=(2, 3)), map_.amax(dim=(2, 3))
        return torch.cat([mean, largest], dim=1) if self.concatenate else 0.5 * (mean + largest)


@POOLINGS.register("gem")
class GeMPooling(Pooling):
    """Generalized mean of each channel, between mean and maximum, with an exponent that is learnt.

    Args:
        map_channels: the channels of each map that it is given.
        p: the exponent that training starts from, above 0: 1 is the mean, a large one near the maximum.
        learnable: whether training moves it, one of its own for each map; it is kept as its logarithm, and so stays
            above 0.
        eps: values below this count as this; above 0. Maps that a ReLU ends lose nothing.

    Shapes: a tuple of float ``(batch, channels, height, width)`` to ``(batch, sum of channels)``.

    Raises:
        UserError: ``p`` or ``eps`` of 0 or less.

    Source: Radenović, Tolias and Chum, Fine-tuning CNN Image Retrieval with No Human Annotation, 2018,
    arXiv:1711.02512.

    Example: ``model: {backbone: resnet18, pooling: {name: gem, p: 4}}``

    >>> GeMPooling((1,), p=2.0)((torch.tensor([[[[3.0, 4.0]]]]),)) ** 2
    tensor([[12.5000]], grad_fn=<PowBackward0>)
    """

    log_p: Tensor

    def __init__(
        self, map_channels: tuple[int, ...], p: float = 3.0, learnable: bool = True, eps: float = 1e-6
    ) -> None:
        super().__init__(map_channels)
        for key, value in (("p", p), ("eps", eps)):
            if value <= 0:
                raise UserError(f"`{key}` must be above 0, got {value}")
        self.eps = eps
        log_p = torch.full((len(map_channels),), float(p)).log()
        if learnable:
            self.log_p = nn.Parameter(log_p)
        else:
            self.register_buffer("log_p", log_p)

    def pool(self, map_: Tensor, number: int) -> Tensor:
        """The generalized means."""
        return generalized_mean(map_, self.log_p[number].float().exp(), self.eps)


@POOLINGS.register("attention")
class AttentionPooling(Pooling):
    """A learnt query asks all places of a map at once, and an MLP works on what they answer.

    Args:
        map_channels: the channels of each map that it is given; each map has a query, projections and MLP of its own.
        heads: of the attention; they share the channels out.
        mlp_ratio: the width of the MLP, as a multiple of the channels.

    Shapes: a tuple of float ``(batch, channels, height, width)`` to ``(batch, sum of channels)``.

    Raises:
        UserError: channels that the heads cannot share out, or a width of no channel.

    Source: Lee et al., Set Transformer, 2019, arXiv:1810.00825 (pooling by multihead attention); for images Zhai et
    al., Scaling Vision Transformers, 2022, arXiv:2106.04560 (the MAP head), as timm computes it.

    Example: ``model: {backbone: resnet18, pooling: {name: attention, heads: 4}}``

    >>> AttentionPooling((16,), heads=2)((torch.ones(2, 16, 4, 4),)).shape
    torch.Size([2, 16])
    """

    def __init__(self, map_channels: tuple[int, ...], heads: int = 8, mlp_ratio: float = 4.0) -> None:
        super().__init__(map_channels)
        for channels in map_channels:
            if heads < 1 or channels % heads:
                raise UserError(f"`heads` must divide the channels of the maps, {channels}, got {heads}")
            if int(channels * mlp_ratio) < 1:
                raise UserError(f"`mlp_ratio` must be large enough for one channel, got {mlp_ratio}")
        self.each = nn.ModuleList(
            AttentionPoolLatent(channels, num_heads=heads, mlp_ratio=mlp_ratio, norm_layer=nn.LayerNorm)
            for channels in map_channels
        )

    def pool(self, map_: Tensor, number: int) -> Tensor:
        """What the places answer."""
        pooled: Tensor = self.each[number](map_.flatten(2).transpose(1, 2))
        return pooled
