"""Feature maps of a backbone at several stages, instead of its one feature vector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from imgrec.errors import UserError
from imgrec.models.backbones.arguments import reason
from imgrec.models.backbones.base import Backbone
from imgrec.models.features.stages import Stages, find_stages, run_stages
from imgrec.models.utils.forward import evaluating
from imgrec.models.utils.simplify import remove_unused_modules


class MapShape(NamedTuple):
    """Number of channels, height and width of a map, for images of the size of the network."""

    channels: int
    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.channels} channels of {self.height} x {self.width}"


class MapBackbone(nn.Module):
    """A network without its pooling, from normalized images to maps.

    The network, its layers and parameters keep their names. :func:`with_maps` removes the layers that no map depends
    on.

    Args:
        backbone: Backbone with the network, the mean and the standard deviation.
        levels: Indices of the maps, ascending, as in ``feature_info`` of timm. Other networks have one map per stage.
            Empty selects the one map that is the input of the pooling of the network.

    Shapes: float ``(batch, channels, height, width)`` to a tuple of maps, fine to coarse.

    Raises:
        UserError: If the network does not define its stages.

    >>> from imgrec.models import BACKBONES
    >>> backbone = BACKBONES.build("resnet18", image_size=32)
    >>> [tuple(each.shape[1:]) for each in MapBackbone(backbone, (2, 4))(torch.zeros(2, 3, 32, 32))]
    [(128, 4, 4), (512, 1, 1)]
    """

    def __init__(self, backbone: Backbone, levels: Sequence[int] = ()) -> None:
        super().__init__()
        self.network = backbone.network
        self.mean, self.std = backbone.mean, backbone.std
        self.levels = tuple(levels)
        self.stages: Stages | None = find_stages(backbone.network)
        if self.stages is None and not hasattr(backbone.network, "forward_intermediates"):
            raise UserError(
                f"{type(backbone.network).__name__} does not define its stages. It has neither the method "
                "`forward_intermediates` of the networks of timm nor the attribute `stage_modules`."
            )

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the maps of normalized images."""
        network: Any = self.network
        if self.stages is not None:
            return run_stages(network, self.stages, images, self.levels)
        if self.levels:
            return tuple(_intermediates(network, images, list(self.levels)))
        output = network.forward_features(images)
        if isinstance(output, Tensor) and output.ndim == 4:
            last_is_channel = str(getattr(network, "output_fmt", "NCHW")).endswith("NHWC")
            return (output.permute(0, 3, 1, 2).contiguous() if last_is_channel else output,)
        return tuple(_intermediates(network, images, [-1]))  # timm arranges tokens as a map


def _intermediates(network: Any, images: Tensor, levels: list[int]) -> list[Tensor]:
    found: list[Tensor] = network.forward_intermediates(
        images, indices=levels, norm=True, stop_early=True, output_fmt="NCHW", intermediates_only=True
    )
    return found


def map_shapes(backbone: Backbone, title: str, in_channels: int, image_size: int) -> tuple[MapShape, ...]:
    """Return the shape of each map of a backbone, fine to coarse, found by a run that does not change it.

    Args:
        backbone: Backbone.
        title: Name of the backbone for messages.
        in_channels: Number of channels of the images.
        image_size: Height and width of the images in pixels.

    Raises:
        UserError: If the network has no maps or does not define its stages.
    """
    try:
        count = _level_count(backbone.network)
        return _shapes(MapBackbone(backbone, range(count)), in_channels, image_size)
    except Exception as error:  # networks without separate stages raise different errors
        raise UserError(f"{title} has no maps of several stages: {reason(error)}") from error


def last_map_shape(backbone: Backbone, title: str, in_channels: int, image_size: int) -> MapShape:
    """Return the shape of the map that is the input of the pooling of a backbone. See :func:`map_shapes`."""
    try:
        return _shapes(MapBackbone(backbone), in_channels, image_size)[0]
    except Exception as error:
        raise UserError(f"{title} has no map to pool: {reason(error)}") from error


def with_maps(backbone: Backbone, levels: Sequence[int], in_channels: int, image_size: int) -> MapBackbone:
    """Return the backbone as a :class:`MapBackbone`, without the layers that no map depends on.

    Those are later stages, a last convolution or normalization, or the classifier, which would receive no gradient. The
    given backbone must not be used afterwards.
    """
    found = MapBackbone(backbone, levels)
    remove_unused_modules(found, in_channels, image_size)
    return found


def output_shapes(module: nn.Module, shapes: Sequence[MapShape]) -> tuple[MapShape, ...]:
    """Return the shapes of the maps that ``module``, a neck, returns for maps of the given shapes."""
    return _shapes_of(_run(module, (tuple(torch.empty(2, *shape, device="meta") for shape in shapes),)))


def _shapes(module: MapBackbone, in_channels: int, image_size: int) -> tuple[MapShape, ...]:
    return _shapes_of(_run(module, (torch.empty(2, in_channels, image_size, image_size, device="meta"),)))


def _shapes_of(maps: tuple[Tensor, ...]) -> tuple[MapShape, ...]:
    if any(each.ndim != 4 for each in maps):
        raise UserError(f"expected maps, got features of shape {('batch', *maps[0].shape[1:])}.")
    return tuple(MapShape(each.shape[1], each.shape[2], each.shape[3]) for each in maps)


def _run(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Tensor, ...]:
    """Return the output of ``module`` in evaluation mode, on meta tensors if possible."""
    tensors = {n: t.detach().to("meta") for n, t in (*module.named_parameters(), *module.named_buffers())}
    found: tuple[Tensor, ...]
    with evaluating(module), torch.no_grad(), torch.random.fork_rng(devices=[]):
        try:
            found = torch.func.functional_call(module, tensors, inputs)
        except NotImplementedError:  # an operator without a meta kernel
            first = next(module.parameters())
            found = module(*tree_map(lambda t: torch.zeros_like(t, device=first.device, dtype=first.dtype), inputs))
    return found


def _level_count(network: Any) -> int:
    stages = find_stages(network)
    if stages is not None:
        return len(stages)
    info = getattr(network, "feature_info", None)
    if info is None:
        raise UserError(f"{type(network).__name__} does not define its stages.")
    return len(info)
