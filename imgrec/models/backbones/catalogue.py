"""Registry of backbones, with the networks of timm and torchvision by name."""

from __future__ import annotations

from collections.abc import Callable, Collection

from imgrec.models.backbones.base import Backbone
from imgrec.models.backbones.timm import find_timm_backbone, timm_backbone_names
from imgrec.models.backbones.torchvision import find_torchvision_backbone, torchvision_backbone_names
from imgrec.registry import Registry


class BackboneCatalogue:
    """Networks of timm by their names, and of torchvision as ``torchvision/<name>``."""

    def names(self) -> Collection[str]:
        """Return every name that :meth:`find` accepts."""
        return [*timm_backbone_names(), *torchvision_backbone_names()]

    def find(self, name: str) -> Callable[..., Backbone] | None:
        """Return the function that builds ``name``, or ``None`` if neither library contains it."""
        return find_timm_backbone(name) or find_torchvision_backbone(name)


SHAPES = (
    *("layers", "channels", "stem_width", "block", "base_width", "cardinality", "depth", "depths", "dims", "widths"),
    *("embed_dim", "embed_dims", "num_heads", "mlp_ratio", "patch_size", "window_size", "width_mult"),
)
"""Arguments that define the shape of a network. They are dropped if an override changes the architecture."""

BACKBONES: Registry[Backbone] = Registry("backbone", "backbones", catalogue=BackboneCatalogue(), specific=SHAPES)
