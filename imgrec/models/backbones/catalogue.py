"""The registry of backbones: whatever timm and torchvision know by name."""

from __future__ import annotations

from collections.abc import Callable, Collection

from imgrec.models.backbones import timm as timm_models
from imgrec.models.backbones import torchvision as torchvision_models
from imgrec.models.backbones.base import Backbone
from imgrec.registry import Registry


class BackboneCatalogue:
    """timm's networks by their names there, torchvision's as ``torchvision/<name>``."""

    def names(self) -> Collection[str]:
        """Every name that :meth:`find` knows."""
        return [*timm_models.names(), *torchvision_models.names()]

    def find(self, name: str) -> Callable[..., Backbone] | None:
        """What builds ``name``; ``None`` where neither library has it."""
        return timm_models.find(name) or torchvision_models.find(name)


SHAPES = (
    *("layers", "channels", "stem_width", "block", "base_width", "cardinality", "depth", "depths", "dims", "widths"),
    *("embed_dim", "embed_dims", "num_heads", "mlp_ratio", "patch_size", "window_size", "width_mult"),
)
"""Arguments that define the shape of a network; another architecture has its own."""

BACKBONES: Registry[Backbone] = Registry("backbone", "backbones", catalogue=BackboneCatalogue(), specific=SHAPES)
