"""Networks that run their parts one after the other, and so can be left after any of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from imgrec.models.features.torchvision_stages import torchvision_stages

Stages = tuple[tuple[str, ...], ...]
"""For each stage the names of the modules that are run in it, in order."""


def stages_of(network: nn.Module) -> Stages | None:
    """The stages that a network says it has in ``stage_modules``, or torchvision's; ``None`` where neither is.

    Raises:
        UserError: a network of torchvision that cannot be left at its stages.
    """
    said: Any = getattr(network, "stage_modules", None)
    if said is None and type(network).__module__.startswith("torchvision.models"):
        said = torchvision_stages(network)
    return tuple(tuple(stage) for stage in said) if said is not None else None


def run_stages(network: nn.Module, stages: Stages, images: Tensor, levels: Sequence[int]) -> tuple[Tensor, ...]:
    """What the stages ``levels`` give, ascending; for no level, what the last stage gives to the network's pooling.

    Where the network multiplies its pooled features by its ``scale``, the one map is multiplied instead.

    >>> network = nn.Sequential(nn.MaxPool2d(2), nn.MaxPool2d(2), nn.MaxPool2d(2))
    >>> import torch
    >>> [tuple(each.shape[2:]) for each in run_stages(network, (("0",), ("1", "2")), torch.zeros(1, 1, 16, 16), [0, 1])]
    [(8, 8), (2, 2)]
    """
    last = max(levels, default=len(stages) - 1)
    maps = []
    for number, stage in enumerate(stages[: last + 1]):
        for name in stage:
            images = network.get_submodule(name)(images)
        if number in levels:
            maps.append(images)
    if levels:
        return tuple(maps)
    scale: Any = getattr(network, "scale", None)
    return (images * scale if isinstance(scale, float) else images,)
