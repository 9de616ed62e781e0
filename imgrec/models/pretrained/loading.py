"""Weights from a model folder in the layout of timm, from a run folder, or from a safetensors file."""

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
"""Prefix of the network in a model folder in the layout of a classifier of imgrec."""


@dataclass(frozen=True)
class Weights:
    """A state dict with the description in its model folder.

    Args:
        path: Model folder or file.
        state: Tensors by name.
        architecture: Name of the architecture, or ``None`` for a single file.
        config: ``pretrained_cfg`` of the folder: mean, standard deviation, input size, name of the classifier.
        model_args: Arguments of the network of the folder.
    """

    path: Path
    state: dict[str, Tensor]
    architecture: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    model_args: dict[str, Any] = field(default_factory=dict)


def read_model_config(folder: Path) -> dict[str, Any]:
    """Return config.json of a model folder, with its older flat form converted.

    Raises:
        UserError: If the file is missing or names no architecture.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise UserError(f"{folder} is no model folder: it contains no config.json.")
    try:
        config = json_text.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is not valid JSON: {error}") from error
    if not isinstance(config, dict) or not isinstance(config.get("architecture"), str):
        raise UserError(f'{folder} is no model folder: its config.json has no "architecture".')
    if not isinstance(config.get("pretrained_cfg"), dict):
        flat = {k: v for k, v in config.items() if k not in ("architecture", "num_features", "model_args", "imgrec")}
        config = {**config, "pretrained_cfg": flat}
    for key in ("num_classes", "label_names"):  # values at the top level take precedence
        if key in config:
            config["pretrained_cfg"][key] = config[key]
    return config


def read_state(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file, on the CPU.

    Raises:
        UserError: If the file is missing, of another format or damaged.
    """
    if not file.is_file():
        raise UserError(f"weights not found: {file}.")
    if file.suffix != ".safetensors":
        raise UserError(f"weights: expected a safetensors file, which contains no code, got {file}.")
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file} is not a readable safetensors file: {error}.") from error


def read_weights(path: str | Path) -> Weights:
    """Return the weights at ``path``, relative to the working directory or to ``IMGREC_DATA``.

    Args:
        path: Model folder, run folder that contains one, or safetensors file.

    Raises:
        UserError: If nothing is there or if it cannot be read.
    """
    found = _model_folder(locate(path, "weights"))
    if not found.is_dir():
        return Weights(found, _network_part(read_state(found)))
    config = read_model_config(found)
    _refuse_surgery(config, found)
    return Weights(
        found,
        _network_part(read_state(found / "model.safetensors")),
        config["architecture"],
        dict(config["pretrained_cfg"]),
        dict(config.get("model_args") or {}),
    )


def check_architecture(path: str | Path, name: str) -> None:
    """Raise an error if ``path`` is missing, or is a model folder of another architecture than ``name``.

    Raises:
        UserError: If the weights do not exist or belong to another architecture.
    """
    found = _model_folder(locate(path, "weights"))
    if found.is_dir():
        config = read_model_config(found)
        _same_architecture(config["architecture"], name, found)
        _refuse_surgery(config, found)
        if not (found / "model.safetensors").is_file():
            raise UserError(f"weights not found: {found / 'model.safetensors'}.")
    elif found.suffix != ".safetensors":
        raise UserError(f"weights: expected a safetensors file, which contains no code, got {found}.")


def check_weights_architecture(weights: Weights, name: str) -> None:
    """Raise an error if ``weights`` belong to another architecture than ``name``.

    Raises:
        UserError: If both architectures are known and differ.
    """
    if weights.architecture is not None:
        _same_architecture(weights.architecture, name, weights.path)


def load_exactly(network: nn.Module, state: Mapping[str, Tensor], title: str, may_lack: Collection[str] = ()) -> None:
    """Load ``state`` into ``network``. Names and shapes must match, and only keys of ``may_lack`` may be missing.

    Raises:
        UserError: If keys do not match. The message contains them.
    """
    own = network.state_dict()
    missing = [k for k in own if k not in state and k not in may_lack]
    unknown = [k for k in state if k not in own]
    unlike = [f"{k} {tuple(state[k].shape)} for {tuple(v.shape)}" for k, v in own.items() if _unlike(state, k, v)]
    faults = [
        f"{fault}: {', '.join(keys[:5])}{f' and {len(keys) - 5} more' if len(keys) > 5 else ''}."
        for fault, keys in (("Missing", missing), ("Not in the network", unknown), ("Of another shape", unlike))
        if keys
    ]
    if faults:
        raise UserError(f"{title} do not fit the network. {' '.join(faults)}")
    own.update(state)  # in place, because some modules require the versions that this dict contains
    network.load_state_dict(own)


def _model_folder(found: Path) -> Path:
    """Return the model folder in a run folder, and other paths unchanged."""
    inside = found / "model"
    return inside if not (found / "config.json").is_file() and (inside / "config.json").is_file() else found


def _unlike(state: Mapping[str, Tensor], key: str, own: Tensor) -> bool:
    return key in state and state[key].shape != own.shape


def _refuse_surgery(config: dict[str, Any], path: Path) -> None:
    if isinstance(config.get("imgrec"), dict) and config["imgrec"].get("surgery"):
        raise UserError(
            f"{path} contains a pruned or quantized network, whose layers differ from its architecture. Set "
            "`model.init_from` to start from the whole network."
        )


def _same_architecture(found: str, name: str, path: Path) -> None:
    if found.partition(".")[0] != name.partition(".")[0]:
        raise UserError(f'{path}: expected weights of "{name}", got weights of "{found}".')


def _network_part(state: dict[str, Tensor]) -> dict[str, Tensor]:
    own = {k.removeprefix(OWN_PREFIX): v for k, v in state.items() if k.startswith(OWN_PREFIX)}
    return own or state
