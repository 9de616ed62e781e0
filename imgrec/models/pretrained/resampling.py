"""Resampling of tensors to another image size or channel count: position embeddings, patches, first convolutions."""

from __future__ import annotations

import math
from typing import Any

from timm.layers.patch_embed import resample_patch_embed
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.layers.pos_embed_rel import resize_rel_pos_bias_table
from timm.models import adapt_input_conv
from torch import Tensor, nn


def resample_to(model: nn.Module, name: str, tensor: Tensor) -> Tensor | None:
    """Return ``tensor`` in the shape of the parameter ``name`` of ``model``, if both differ only because of the images.

    Position embeddings and tables of relative positions are interpolated, and the patches of a ViT are resampled. The
    channels of the first convolution are summed or repeated. All of this follows timm.

    Args:
        model: Network.
        name: Name of one of its parameters.
        tensor: Tensor of the same name in another network.

    Returns:
        The tensor, or ``None`` if the shapes differ for another reason, such as the width.
    """
    path, _, leaf = name.rpartition(".")
    owner: Any = model.get_submodule(path)
    target: Tensor = getattr(owner, leaf)
    found: Tensor | None = None
    if leaf == "weight" and isinstance(owner, nn.Conv2d) and tensor.ndim == 4:
        found = _convolution(model, path, owner, tensor)
    elif leaf in ("pos_embed", "pos_embedding", "position_embedding") and target.ndim == tensor.ndim == 3:
        found = _positions(owner, target, tensor)
    elif leaf == "relative_position_bias_table" and target.ndim == tensor.ndim == 2:
        window = getattr(owner, "window_size", None)
        if window is not None and target.shape[1] == tensor.shape[1]:
            found = resize_rel_pos_bias_table(tensor, tuple(window), tuple(target.shape))
    return found if found is not None and found.shape == target.shape else None


def _convolution(model: nn.Module, path: str, owner: nn.Conv2d, tensor: Tensor) -> Tensor | None:
    first = next(name for name, module in model.named_modules() if isinstance(module, nn.Conv2d))
    target = owner.weight
    if path != first or target.shape[0] != tensor.shape[0] or owner.groups != 1:
        return None
    found = tensor
    if target.shape[2:] != tensor.shape[2:]:
        if "patch_embed" not in path and owner.stride != owner.kernel_size:
            return None
        found = resample_patch_embed(found, list(target.shape[2:]))
    return adapt_input_conv(target.shape[1], found, base_chans=tensor.shape[1])


def _positions(owner: Any, target: Tensor, tensor: Tensor) -> Tensor | None:
    """Interpolate position embeddings of one vector per patch. The number of prefix tokens must be equal."""
    if target.shape[2] != tensor.shape[2]:
        return None
    grid = getattr(getattr(owner, "patch_embed", None), "grid_size", None)
    for prefix in (1, 0, 2, 5):  # class token, no token, class and distillation token, class token and four registers
        side = math.isqrt(target.shape[1] - prefix)
        size = tuple(grid) if grid is not None else (side, side)
        if size[0] * size[1] == target.shape[1] - prefix and math.isqrt(tensor.shape[1] - prefix) ** 2 == (
            tensor.shape[1] - prefix
        ):
            found: Tensor = resample_abs_pos_embed(tensor, list(size), num_prefix_tokens=prefix)
            return found
    return None
