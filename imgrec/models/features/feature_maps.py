"""A backbone's maps at several stages, in the place of its one feature vector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from imgrec.errors import UserError
from imgrec.models.backbones.arguments import reason
from imgrec.models.backbones.base import Backbone
from imgrec.models.features.stages import Stages, run_stages, stages_of
from imgrec.models.utils.forward import evaluating
from imgrec.models.utils.unused import remove_unused


class MapShape(NamedTuple):
    """What a map is like: its channels, height and width, for images of the size that the network is built for."""

    channels: int
    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.channels} channels of {self.height} x {self.width}"


class MapBackbone(nn.Module):
    """A network that is left before its pooling: normalized images in, maps out.

    The network keeps its name, its layers and the names of its parameters; what no map depends on is taken out by
    :func:`with_maps`.

    Args:
        backbone: gives its network, its mean and its standard deviation.
        levels: the numbers of the maps, ascending: as timm counts them in ``feature_info``, and for other networks one
            a stage. Empty means the one map that the network's own pooling is given.

    Shapes: float ``(batch, channels, height, width)`` to a tuple of maps, fine to coarse.

    Raises:
        UserError: the network does not say what its stages are.
    """

    def __init__(self, backbone: Backbone, levels: Sequence[int] = ()) -> None:
        super().__init__()
        self.network = backbone.network
        self.mean, self.std = backbone.mean, backbone.std
        self.levels = tuple(levels)
        self.stages: Stages | None = stages_of(backbone.network)
        if self.stages is None and not hasattr(backbone.network, "forward_intermediates"):
            raise UserError(
                f"a {type(backbone.network).__name__} does not say what its stages are: it has no method "
                "`forward_intermediates` as timm's networks have, and no `stage_modules`"
            )

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """The maps of normalized images."""
        network: Any = self.network
        if self.stages is not None:
            return run_stages(network, self.stages, images, self.levels)
        if self.levels:
            return tuple(_intermediates(network, images, list(self.levels)))
        given = network.forward_features(images)
        if isinstance(given, Tensor) and given.ndim == 4:
            last_is_channel = str(getattr(network, "output_fmt", "NCHW")).endswith("NHWC")
            return (given.permute(0, 3, 1, 2).contiguous() if last_is_channel else given,)
        return tuple(_intermediates(network, images, [-1]))  # tokens: timm knows how they lie in the image


def _intermediates(network: Any, images: Tensor, levels: list[int]) -> list[Tensor]:
    found: list[Tensor] = network.forward_intermediates(
        images, indices=levels, norm=True, stop_early=True, output_fmt="NCHW", intermediates_only=True
    )
    return found


def map_shapes(backbone: Backbone, title: str, in_channels: int, image_size: int) -> tuple[MapShape, ...]:
    """What each map of a backbone is like, fine to coarse, found by a trial run that leaves it as it was.

    Args:
        backbone: any.
        title: what it is called in messages.
        in_channels: of the images.
        image_size: their side, in pixels.

    Raises:
        UserError: the network has no maps, or does not say which.
    """
    try:
        count = _level_count(backbone.network)
        return _shapes(MapBackbone(backbone, range(count)), in_channels, image_size)
    except Exception as error:  # whatever a network raises that cannot be left at its stages
        raise UserError(f"{title} gives no maps of several stages: {reason(error)}") from error


def last_map_shape(backbone: Backbone, title: str, in_channels: int, image_size: int) -> MapShape:
    """What the map is like that a backbone's own pooling is given; see :func:`map_shapes`."""
    try:
        return _shapes(MapBackbone(backbone), in_channels, image_size)[0]
    except Exception as error:
        raise UserError(f"{title} gives no map to be pooled: {reason(error)}") from error


def with_maps(backbone: Backbone, levels: Sequence[int], in_channels: int, image_size: int) -> MapBackbone:
    """The backbone as one that gives these maps, without the layers that none of them depends on.

    Those are later stages, a last convolution or norm, the classifier: where they are, they would have no gradient. The
    backbone is taken apart; use it no more.
    """
    found = MapBackbone(backbone, levels)
    remove_unused(found, in_channels, image_size)
    return found


def shapes_given(module: nn.Module, shapes: Sequence[MapShape]) -> tuple[MapShape, ...]:
    """The shapes of the maps that ``module``, a neck, gives for a tuple of maps of the shapes ``shapes``."""
    return _shapes_of(_tried(module, (tuple(torch.empty(2, *shape, device="meta") for shape in shapes),)))


def _shapes(module: MapBackbone, in_channels: int, image_size: int) -> tuple[MapShape, ...]:
    given = _tried(module, (torch.empty(2, in_channels, image_size, image_size, device="meta"),))
    return _shapes_of(given)


def _shapes_of(given: tuple[Tensor, ...]) -> tuple[MapShape, ...]:
    if any(each.ndim != 4 for each in given):
        raise UserError(f"it gives features of shape {('batch', *given[0].shape[1:])}, no maps")
    return tuple(MapShape(each.shape[1], each.shape[2], each.shape[3]) for each in given)


def _tried(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Tensor, ...]:
    """What ``module`` gives in evaluation mode, on meta tensors where that goes."""
    tensors = {n: t.detach().to("meta") for n, t in (*module.named_parameters(), *module.named_buffers())}
    found: tuple[Tensor, ...]
    with evaluating(module), torch.no_grad(), torch.random.fork_rng(devices=[]):
        try:
            found = torch.func.functional_call(module, tensors, inputs)
        except NotImplementedError:  # an operator without a meta kernel: the real thing, once
            first = next(module.parameters())
            found = module(*tree_map(lambda t: torch.zeros_like(t, device=first.device, dtype=first.dtype), inputs))
    return found


def _level_count(network: Any) -> int:
    stages = stages_of(network)
    if stages is not None:
        return len(stages)
    info = getattr(network, "feature_info", None)
    if info is None:
        raise UserError(f"a {type(network).__name__} does not say what its stages are")
    return len(info)
