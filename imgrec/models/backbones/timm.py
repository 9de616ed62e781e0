"""Classification networks of timm as backbones, by their names in timm."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, cast

import timm
import torch
from timm.models import get_pretrained_cfg, is_model, model_entrypoint
from timm.models import list_models as timm_names
from timm.models._pretrained import PretrainedCfg
from torch import nn

from imgrec.errors import UserError
from imgrec.models.backbones.arguments import (
    accepted_arguments,
    check_network_arguments,
    describe_backbone,
    reason,
    refuse_reserved,
)
from imgrec.models.backbones.base import Backbone, probe_feature_dim
from imgrec.models.backbones.probe_cache import compute_once
from imgrec.models.normalization import for_channels
from imgrec.models.pretrained.loading import (
    Weights,
    check_architecture,
    check_weights_architecture,
    load_exactly,
    read_weights,
)

_RESERVED = {
    "in_chans": "the number of channels follows from the data (data.channels)",
    "img_size": "the image size follows from the data (data.image_size)",
    "features_only": "a backbone returns one vector per image",
    "out_indices": "a backbone returns one vector per image",
    "feature_cls": "a backbone returns one vector per image",
    "checkpoint_path": "set `weights` to a model folder or a safetensors file",
    "pretrained_cfg": "set `weights` to a model folder",
    "pretrained_cfg_overlay": "set `weights` to a model folder",
    "pretrained_strict": "weights must always fit",
    "pretrained_filter_fn": "set `weights` to a model folder or a safetensors file",
    "pretrained_model_args": "set `weights` to a model folder",
    "cache_dir": "set the environment variable HF_HOME",
}
_HIDDEN = {*_RESERVED, "num_classes", "cfg", "block", "block_args", "device", "dtype"}


def timm_backbone_names() -> list[str]:
    """Return the name of every network of timm, and of every set of its weights as ``<network>.<tag>``."""
    return sorted({*timm_names(), *timm_names(pretrained=True)})


@cache
def find_timm_backbone(name: str) -> Callable[..., Backbone] | None:
    """Return the function that builds the network ``name`` of timm, or ``None`` if timm does not contain it."""
    architecture, _, tag = name.partition(".")
    if "/" in name or ":" in name or not is_model(architecture):
        return None
    if tag and name not in timm_names(f"{architecture}.*", pretrained=True):
        return None

    def check(pretrained: bool = False, weights: str | None = None, **arguments: Any) -> None:
        network = {k: v for k, v in arguments.items() if k not in ("in_channels", "image_size", "load_weights")}
        refuse_reserved(name, network, _RESERVED)
        if pretrained and weights is not None:
            raise UserError(f'the backbone "{name}": expected `pretrained: true` or `weights`, got both.')
        if pretrained and not getattr(get_pretrained_cfg(name), "has_weights", False):
            raise UserError(f'timm has no pretrained weights for the backbone "{name}".')
        network.pop("num_classes", None)
        compute_once(
            ("arguments", name, network),
            lambda: check_network_arguments(name, network, lambda **own: _create(name, num_classes=0, **own), _HIDDEN),
        )

    def build(
        in_channels: int = 3,
        image_size: int | None = None,
        pretrained: bool = False,
        weights: str | None = None,
        load_weights: bool = True,
        **network: Any,
    ) -> Backbone:
        check(pretrained, weights, **network)
        title = describe_backbone(name, network)
        size = image_size or _native_size(name)
        adapted = adapted_arguments(name, in_channels, size, network)
        built = _build(name, title, size, num_classes=0, **adapted)
        cfg = _cfg(built)
        if pretrained and load_weights:
            _load_pretrained(built, name, adapted)
        elif weights is not None and load_weights:
            cfg |= _load_local(built, name, read_weights(weights), adapted)
        dim = compute_once(
            ("feature_dim", name, adapted, size), lambda: probe_feature_dim(built, title, in_channels, size)
        )
        return Backbone(built, dim, for_channels(cfg["mean"], in_channels), for_channels(cfg["std"], in_channels))

    def check_weights(weights: str | None = None, **_: Any) -> None:
        if weights is not None:
            check_architecture(weights, name)

    build.__doc__ = _docstring(name)
    vars(build).update(check_arguments=check, check_weights=check_weights)
    return build


def _create(name: str, **arguments: Any) -> nn.Module:
    network: nn.Module = timm.create_model(name, **arguments)
    return network


def _build(name: str, title: str, size: int, **arguments: Any) -> nn.Module:
    try:
        return _create(name, **arguments)
    except Exception as error:  # the arguments are valid, so the size or the channels of the images are not
        raise UserError(f"{title} cannot be built for images of {size} x {size} pixels: {reason(error)}") from error


def _cfg(network: nn.Module) -> dict[str, Any]:
    return dict(cast(dict[str, Any], network.pretrained_cfg))


def _native_size(name: str) -> int:
    cfg = get_pretrained_cfg(name)
    return cfg.input_size[-1] if cfg else 224


@cache
def _takes_img_size(name: str) -> bool:
    try:
        with torch.device("meta"):
            plain = _create(name, num_classes=0)
    except Exception:  # it cannot be built on the meta device
        plain = _create(name, num_classes=0)
    return "img_size" in accepted_arguments(plain)


def adapted_arguments(name: str, in_channels: int, size: int, network: dict[str, Any]) -> dict[str, Any]:
    """Return the keyword arguments of timm for images of ``size`` pixels, those of ``network`` included."""
    size_argument = {"img_size": size} if _takes_img_size(name) else {}
    arguments = {k: v for k, v in network.items() if k != "num_classes"}
    return {"in_chans": in_channels, **size_argument, **arguments}


def _load_pretrained(network: nn.Module, name: str, adapted: dict[str, Any]) -> None:
    try:
        loaded = _create(name, pretrained=True, **adapted)
    except Exception as error:  # no connection, a full disk, or weights of another shape
        raise UserError(f'the pretrained weights of "{name}" cannot be loaded: {reason(error)}') from error
    _copy_without_classifier(loaded, network, f'the pretrained weights of "{name}"')


def _load_local(network: nn.Module, name: str, weights: Weights, adapted: dict[str, Any]) -> dict[str, Any]:
    check_weights_architecture(weights, name)
    config = _plain_config(weights.config)
    classifier = config.get("classifier") or _cfg(network).get("classifier")
    first = classifier if isinstance(classifier, str) else next(iter(classifier or ()), "")
    rows = weights.state.get(f"{first}.weight")
    num_classes = 0 if rows is None else rows.shape[0]
    title = f"the weights at {weights.path}"
    overlay = _overlay(config, weights.state, num_classes, name)
    try:
        loaded = _create(
            name, pretrained=True, pretrained_cfg_overlay=overlay, **{**adapted, "num_classes": num_classes}
        )
    except Exception as error:
        hint = f" The network of the folder was built with {weights.model_args}." if weights.model_args else ""
        raise UserError(f'{title} do not fit the backbone "{name}": {_keys(str(error))}.{hint}') from error
    _copy_without_classifier(loaded, network, title)
    return {k: v for k, v in config.items() if k in ("mean", "std")}


def create_from_folder(name: str, config: Mapping[str, Any], arguments: Mapping[str, Any], state: Any) -> nn.Module:
    """Return the network ``name`` of timm with its classifier, filled with the tensors of a model folder.

    Only these tensors are read. Entries of ``config`` that name a file, a server or a loader of timm are ignored.

    Args:
        name: Architecture, without a tag.
        config: ``pretrained_cfg`` of the folder.
        arguments: ``model_args`` of the folder.
        state: Tensors by name.

    Raises:
        UserError: If timm has no such network, if an argument is reserved, or if the tensors do not fit.
    """
    if not isinstance(arguments, Mapping):
        raise UserError(f"model_args: expected a mapping, got {arguments!r}.")
    if find_timm_backbone(name) is None or "." in name:
        raise UserError(f'architecture: expected the name of a network of timm, got "{name}".')
    refuse_reserved(name, {k: v for k, v in arguments.items() if k not in ("in_chans", "img_size")}, _RESERVED)
    known = _plain_config(config)
    if "in_chans" in arguments and isinstance(known.get("input_size"), tuple):
        known["input_size"] = (arguments["in_chans"], *known["input_size"][1:])
    num_classes = known.get("num_classes", 1000)
    overlay = _overlay(known, state, num_classes, name)
    return _create(name, pretrained=True, pretrained_cfg_overlay=overlay, **{"num_classes": num_classes, **arguments})


def _plain_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of a ``pretrained_cfg`` that describe the network, without those that name its weights."""
    fields = {f.name for f in dataclasses.fields(PretrainedCfg)} - {"url", "hf_hub_id", "hf_hub_filename", "tag"}
    return {k: tuple(v) if isinstance(v, list) else v for k, v in config.items() if k in fields}


def _overlay(config: Mapping[str, Any], state: Any, num_classes: int, name: str) -> dict[str, Any]:
    source = {"source": None, "file": None, "state_dict": state, "custom_load": False, "label_offset": None}
    return {**config, **source, "num_classes": num_classes, "architecture": name.partition(".")[0]}


def _copy_without_classifier(loaded: nn.Module, network: nn.Module, title: str) -> None:
    """Copy all tensors except those of the classifier, which only ``loaded`` has."""
    own = network.state_dict().keys()
    load_exactly(network, {k: v for k, v in loaded.state_dict().items() if k in own}, title)


def _keys(message: str) -> str:
    lines = [line.strip().rstrip(".") for line in message.splitlines() if line.strip()]
    shown = [f"{line[:300]} ..." if len(line) > 300 else line for line in lines[:6]]
    return ", ".join(shown) + (f" and {len(lines) - 6} more" if len(lines) > 6 else "")


def _docstring(name: str) -> str:
    function = model_entrypoint(name.partition(".")[0])
    first = (function.__doc__ or "").strip().partition("\n")[0].rstrip(". ")
    paper = getattr(get_pretrained_cfg(name), "origin_url", None)
    return f"""{first or name} (timm).

    Args:
        in_channels: Number of channels of the images, a fact of the data.
        image_size: Height and width of the images in pixels, a fact of the data. Position embeddings are created or
            resampled for it.
        pretrained: ``True`` downloads the weights of timm for this name, with their mean and standard deviation.
        weights: Local model folder in the layout of timm, or a safetensors file, with initial weights.
        load_weights: ``False`` skips both, for example before a checkpoint is loaded. Defaults to ``True``.
        **network: Keyword arguments of the network in timm, such as ``drop_path_rate``.

    Raises:
        UserError: If an argument is invalid, if the network does not accept the images, or if the weights do not fit.

    Source: {paper or f"{function.__module__} in timm, https://github.com/huggingface/pytorch-image-models"}
    """
