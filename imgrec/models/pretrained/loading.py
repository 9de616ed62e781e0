"""Weights from a model folder in timm's layout, that of a run for one, or from one safetensors file."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from imgrec.errors import UserError
from imgrec.utils import json_text
from imgrec.utils.paths import locate

OWN_PREFIX = "backbone.network."
"""Where the network's keys stand in a model folder whose layout is our classifier's own."""


@dataclass(frozen=True)
class Weights:
    """A state dict, and what its folder says about it.

    ``architecture`` is ``None`` for a single file; ``config`` is the folder's ``pretrained_cfg`` (mean, std, input
    size, the classifier's name); ``model_args`` are the arguments that the folder's network was built with.
    """

    path: Path
    state: dict[str, Tensor]
    architecture: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    model_args: dict[str, Any] = field(default_factory=dict)


def read_config(folder: Path) -> dict[str, Any]:
    """A model folder's config.json, its older flat form brought into today's.

    Raises:
        UserError: there is none, or it names no architecture.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise UserError(f"{folder} is no model folder: it holds no config.json")
    try:
        config = json_text.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is not valid JSON: {error}") from error
    if not isinstance(config, dict) or not isinstance(config.get("architecture"), str):
        raise UserError(f'{folder} is no model folder: its config.json has no "architecture"')
    if not isinstance(config.get("pretrained_cfg"), dict):
        flat = {k: v for k, v in config.items() if k not in ("architecture", "num_features", "model_args", "imgrec")}
        config = {**config, "pretrained_cfg": flat}
    for key in ("num_classes", "label_names"):  # what stands at the top wins
        if key in config:
            config["pretrained_cfg"][key] = config[key]
    return config


def read_state(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU.

    Raises:
        UserError: it is missing, is not one, or is damaged.
    """
    if not file.is_file():
        raise UserError(f"weights not found: {file}")
    if file.suffix != ".safetensors":
        raise UserError(f"{file} cannot be loaded: weights are read from safetensors files only, which run no code")
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file} is not a readable safetensors file: {error}") from error


def read_weights(path: str | Path) -> Weights:
    """The weights at ``path``, looked up here and under ``IMGREC_DATA``.

    Args:
        path: a model folder, a run folder that holds one, or a safetensors file.

    Raises:
        UserError: nothing is there, or what is there cannot be read.
    """
    found = _model_folder(locate(path, "weights"))
    if not found.is_dir():
        return Weights(found, _network_part(read_state(found)))
    config = read_config(found)
    _refuse_surgery(config, found)
    return Weights(
        found,
        _network_part(read_state(found / "model.safetensors")),
        config["architecture"],
        dict(config["pretrained_cfg"]),
        dict(config.get("model_args") or {}),
    )


def check_architecture(path: str | Path, name: str) -> None:
    """Raise :class:`UserError` where ``path`` is missing, or a model folder of another architecture than ``name``."""
    found = _model_folder(locate(path, "weights"))
    if found.is_dir():
        config = read_config(found)
        _same_architecture(config["architecture"], name, found)
        _refuse_surgery(config, found)
        if not (found / "model.safetensors").is_file():
            raise UserError(f"weights not found: {found / 'model.safetensors'}")
    elif found.suffix != ".safetensors":
        raise UserError(f"{found} cannot be loaded: weights are read from safetensors files only, which run no code")


def refuse_other_architecture(weights: Weights, name: str) -> None:
    """Raise :class:`UserError` where ``weights`` say that they are of another architecture than ``name``."""
    if weights.architecture is not None:
        _same_architecture(weights.architecture, name, weights.path)


def load_exactly(network: nn.Module, state: Mapping[str, Tensor], title: str, may_lack: Collection[str] = ()) -> None:
    """Load ``state`` into ``network``; every key must fit, and none may be missing but those of ``may_lack``.

    Raises:
        UserError: it names the keys that do not fit.
    """
    own = network.state_dict()
    missing = [k for k in own if k not in state and k not in may_lack]
    unknown = [k for k in state if k not in own]
    unlike = [f"{k} {tuple(state[k].shape)} for {tuple(v.shape)}" for k, v in own.items() if _unlike(state, k, v)]
    faults = [
        f"{what}: {', '.join(keys[:5])}{f' and {len(keys) - 5} more' if len(keys) > 5 else ''}"
        for what, keys in (("missing", missing), ("not in the network", unknown), ("of another shape", unlike))
        if keys
    ]
    if faults:
        raise UserError(f"{title} do not fit the network; {'; '.join(faults)}")
    own.update(state)  # in place: this dict carries the versions of the modules, which some of them insist on
    network.load_state_dict(own)


def _model_folder(found: Path) -> Path:
    """Of a run folder, the model folder in it."""
    inside = found / "model"
    return inside if not (found / "config.json").is_file() and (inside / "config.json").is_file() else found


def _unlike(state: Mapping[str, Tensor], key: str, own: Tensor) -> bool:
    return key in state and state[key].shape != own.shape


def _refuse_surgery(config: dict[str, Any], path: Path) -> None:
    if isinstance(config.get("imgrec"), dict) and config["imgrec"].get("surgery"):
        raise UserError(
            f"{path} holds a network whose layers are not those of its architecture any more, since it was pruned or "
            "quantized: training starts from all of it with `model.init_from`"
        )


def _same_architecture(found: str, name: str, path: Path) -> None:
    if found.partition(".")[0] != name.partition(".")[0]:
        raise UserError(f'{path} holds the weights of "{found}", not of "{name}"')


def _network_part(state: dict[str, Tensor]) -> dict[str, Tensor]:
    own = {k.removeprefix(OWN_PREFIX): v for k, v in state.items() if k.startswith(OWN_PREFIX)}
    return own or state
