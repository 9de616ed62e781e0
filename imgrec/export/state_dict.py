"""Reading of saved tensors of any network, under the names that they have in a classifier."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from imgrec.errors import UserError
from imgrec.export.model_folder.layout import from_timm
from imgrec.export.model_folder.save import WEIGHTS
from imgrec.export.trained_model import find_origin, read_any
from imgrec.models.pretrained.loading import read_model_config, read_state
from imgrec.models.utils.layers import SHORT
from imgrec.utils.paths import locate

_INSIDE = ("state_dict", "model_state_dict", "model")
"""Keys of the tensors in checkpoints. imgrec and Lightning use the first one."""


@dataclass(frozen=True)
class Tensors:
    """Tensors by name, with their origin.

    Args:
        path: File or folder of the tensors.
        state: Tensors under the names of a classifier: ``backbone.network.*``, ``head.*``, ``mean``, ``std``.
        class_names: Names of the classes of the logits, or ``None`` if they are not stored.
    """

    path: Path
    state: dict[str, Tensor] = field(repr=False)
    class_names: tuple[str, ...] | None = None


def read_tensors(
    path: str | os.PathLike[str], where: str = "init_from", rename: Mapping[str, str] | None = None
) -> Tensors:
    """Read the tensors at ``path`` to the CPU, without building the network.

    Args:
        path: Run folder, model folder, safetensors file or checkpoint. A checkpoint can be any file that torch reads
            without running code. A relative path is relative to the current folder or to ``IMGREC_DATA``.
        where: Key in the config, for messages.
        rename: Prefixes of the stored names, each with its replacement. Defaults to none.

    Raises:
        UserError: If nothing is found, it cannot be read, or it contains no tensors.
    """
    found = locate_tensors(path, where)
    if found.is_dir():
        config = read_model_config(found)
        own = config.get("imgrec")
        state = rename_tensors(read_state(found / WEIGHTS), rename)
        if not isinstance(own, Mapping) or own.get("layout") == "timm":
            cfg = config["pretrained_cfg"]
            state = _as_classifier(state, cfg.get("classifier"))
            state |= {key: torch.tensor(cfg[key]) for key in ("mean", "std") if isinstance(cfg.get(key), list)}
        return Tensors(found, state, _class_names(config["pretrained_cfg"].get("label_names")))
    if found.suffix == ".safetensors":
        return Tensors(found, _as_classifier(rename_tensors(read_state(found), rename), None))
    checkpoint = read_any(found)
    facts = checkpoint.get("hyper_parameters", {}).get("facts") or {}
    names = facts.get("class_names") if isinstance(facts, Mapping) else None
    inside: Any = next((checkpoint[key] for key in _INSIDE if isinstance(checkpoint.get(key), Mapping)), checkpoint)
    state = {str(key): value for key, value in inside.items() if isinstance(value, Tensor)}
    if not state:
        raise UserError(f"{where}: {found} holds no tensors by name")
    return Tensors(found, _as_classifier(rename_tensors(state, rename), None), tuple(names) if names else None)


def locate_tensors(path: str | os.PathLike[str], where: str = "init_from") -> Path:
    """Return the file or the model folder that a path refers to. See :func:`find_origin` for a run folder.

    Raises:
        UserError: If there is none.
    """
    found = locate(Path(path), f"{where}: run folder, model folder, safetensors file or checkpoint")
    return found if found.is_file() else find_origin(path, where)


def rename_tensors(state: Mapping[str, Tensor], rename: Mapping[str, str] | None) -> dict[str, Tensor]:
    """Return tensors with the prefixes of their names replaced. The longest matching prefix is used.

    Example:
        >>> list(rename_tensors({"module.conv.weight": torch.ones(1)}, {"module.": "", "module.conv": "stem"}))
        ['stem.weight']
    """
    if not rename:
        return dict(state)
    found = {}
    for name, value in state.items():
        old = max((each for each in rename if name.startswith(each)), key=len, default=None)
        found[name if old is None else rename[old] + name.removeprefix(old)] = value
    return found


def _class_names(names: Any) -> tuple[str, ...] | None:
    if isinstance(names, Mapping):
        names = [names.get(str(number)) for number in range(len(names))]
    return tuple(map(str, names)) if isinstance(names, list) and names else None


def _as_classifier(state: dict[str, Tensor], classifier: Any) -> dict[str, Tensor]:
    """Return tensors under the names of a classifier, from those of a task, a classifier or a bare network."""
    if any(name.startswith(f"model.{SHORT}") for name in state):
        state = {name.removeprefix("model."): value for name, value in state.items() if name.startswith("model.")}
    if any(name.startswith(SHORT) for name in state):
        return state
    return from_timm(state, classifier if isinstance(classifier, str) else "\n")  # a prefix that no name has
