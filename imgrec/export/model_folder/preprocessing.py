"""Conversion of the evaluation preprocessing between transform specs of imgrec and the config of timm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from imgrec.augment import check_transforms
from imgrec.registry import Spec
from imgrec.trust import opening
from imgrec.types import DataFacts


def to_timm_config(transforms: Sequence[Spec]) -> dict[str, Any]:
    """Return the entries of timm's ``pretrained_cfg`` that are equal to transform specs: interpolation and crop.

    Example:
        >>> to_timm_config([{"name": "resize", "scale": 1.25, "interpolation": "bicubic"}, "center_crop"])
        {'interpolation': 'bicubic', 'crop_pct': 0.8, 'crop_mode': 'center'}
    """
    for spec in transforms:
        name = spec if isinstance(spec, str) else spec["name"]
        given = {} if isinstance(spec, str) else spec
        if name in ("resize", "squash"):
            return {
                "interpolation": given.get("interpolation", "bilinear"),
                "crop_pct": round(1 / given.get("scale", 1.0), 6) if name == "resize" else 1.0,
                "crop_mode": "center" if name == "resize" else "squash",
            }
    return {"interpolation": "bilinear", "crop_pct": 1.0, "crop_mode": "center"}


def check_preprocessing(facts: DataFacts, where: str) -> None:
    """Raise if the preprocessing in ``facts`` cannot be built. Received data may name registered transforms only.

    Args:
        facts: Facts of a model folder, a checkpoint or an export.
        where: Path of the source, for messages.

    Raises:
        UserError: If a transform is unknown, not trusted, or has wrong arguments.
    """
    with opening(where):
        check_transforms(
            list(facts.eval_transforms),
            f"{where}: facts.eval_transforms",
            image_size=facts.image_size,
            in_channels=facts.channels,
        )


def from_timm_config(config: Mapping[str, Any]) -> tuple[Spec, ...]:
    """Return the transform specs that are equal to a ``pretrained_cfg`` of timm.

    Example:
        >>> from_timm_config({"interpolation": "bicubic", "crop_pct": 0.8})
        ({'name': 'resize', 'scale': 1.25, 'interpolation': 'bicubic'}, 'center_crop')
    """
    interpolation = config.get("interpolation", "bicubic")
    if interpolation not in ("bilinear", "bicubic", "nearest"):
        interpolation = "bicubic"  # "random" of timm is for training, and "lanczos" is closest to bicubic
    if config.get("crop_mode") == "squash":
        return ({"name": "squash", "interpolation": interpolation},)
    scale = 1 / float(config.get("crop_pct") or 1.0)
    return ({"name": "resize", "scale": scale, "interpolation": interpolation}, "center_crop")
