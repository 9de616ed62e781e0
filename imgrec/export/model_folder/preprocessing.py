"""The preprocessing of evaluation, as imgrec's transform specs and as timm's config says it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from imgrec.augment import check_transforms
from imgrec.registry import Spec
from imgrec.trust import opening
from imgrec.types import DataFacts


def to_timm_config(transforms: Sequence[Spec]) -> dict[str, Any]:
    """What timm calls for ``transforms``: the interpolation, and the part of the resized image that the crop keeps.

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
    """Raise if the preprocessing in ``facts`` cannot be built; received data names registered transforms only.

    Args:
        facts: those of a model folder, a checkpoint or an export.
        where: its path.

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
    """The transform specs that do what timm does with this ``pretrained_cfg``.

    >>> from_timm_config({"interpolation": "bicubic", "crop_pct": 0.8})
    ({'name': 'resize', 'scale': 1.25, 'interpolation': 'bicubic'}, 'center_crop')
    """
    interpolation = config.get("interpolation", "bicubic")
    if interpolation not in ("bilinear", "bicubic", "nearest"):
        interpolation = "bicubic"  # timm's "random" and "lanczos" are for training, or nearest to this
    if config.get("crop_mode") == "squash":
        return ({"name": "squash", "interpolation": interpolation},)
    scale = 1 / float(config.get("crop_pct") or 1.0)
    return ({"name": "resize", "scale": scale, "interpolation": interpolation}, "center_crop")
