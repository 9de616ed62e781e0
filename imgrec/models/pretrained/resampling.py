"""Tensors of a network for other images: position embeddings, patches and first convolutions of another size."""

from __future__ import annotations

import math
from typing import Any

from timm.layers.patch_embed import resample_patch_embed
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.layers.pos_embed_rel import resize_rel_pos_bias_table
from timm.models import adapt_input_conv
from torch import Tensor, nn


def resampled(model: nn.Module, name: str, theirs: Tensor) -> Tensor | None:
    """``theirs`` in the shape of the tensor ``name`` of ``model``, where that is a question of the images alone.

    Position embeddings and tables of relative positions are interpolated, the patches of a ViT are resampled, the
    channels of the first convolution are added up or repeated: as timm does each.

    Args:
        model: a network.
        name: of one of its parameters.
        theirs: the tensor of the same name in another network.

    Returns:
        The tensor; ``None`` where the two differ in something else, such as a width.
    """
    path, _, leaf = name.rpartition(".")
    owner: Any = model.get_submodule(path)
    ours: Tensor = getattr(owner, leaf)
    found: Tensor | None = None
    if leaf == "weight" and isinstance(owner, nn.Conv2d) and theirs.ndim == 4:
        found = _convolution(model, path, owner, theirs)
    elif leaf in ("pos_embed", "pos_embedding", "position_embedding") and ours.ndim == theirs.ndim == 3:
        found = _positions(owner, ours, theirs)
    elif leaf == "relative_position_bias_table" and ours.ndim == theirs.ndim == 2:
        window = getattr(owner, "window_size", None)
        if window is not None and ours.shape[1] == theirs.shape[1]:
            found = resize_rel_pos_bias_table(theirs, tuple(window), tuple(ours.shape))
    return found if found is not None and found.shape == ours.shape else None


def _convolution(model: nn.Module, path: str, owner: nn.Conv2d, theirs: Tensor) -> Tensor | None:
    first = next(name for name, module in model.named_modules() if isinstance(module, nn.Conv2d))
    ours = owner.weight
    if path != first or ours.shape[0] != theirs.shape[0] or owner.groups != 1:
        return None
    found = theirs
    if ours.shape[2:] != theirs.shape[2:]:
        if "patch_embed" not in path and owner.stride != owner.kernel_size:
            return None
        found = resample_patch_embed(found, list(ours.shape[2:]))
    return adapt_input_conv(ours.shape[1], found, base_chans=theirs.shape[1])


def _positions(owner: Any, ours: Tensor, theirs: Tensor) -> Tensor | None:
    """One vector a patch, and before them those of other tokens, of which there have to be as many."""
    if ours.shape[2] != theirs.shape[2]:
        return None
    grid = getattr(getattr(owner, "patch_embed", None), "grid_size", None)
    for before in (1, 0, 2, 5):  # a class token; none; one of distillation, too; one and four registers
        side = math.isqrt(ours.shape[1] - before)
        size = tuple(grid) if grid is not None else (side, side)
        if size[0] * size[1] == ours.shape[1] - before and math.isqrt(theirs.shape[1] - before) ** 2 == (
            theirs.shape[1] - before
        ):
            found: Tensor = resample_abs_pos_embed(theirs, list(size), num_prefix_tokens=before)
            return found
    return None
