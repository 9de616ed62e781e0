"""Every classification network of timm as a backbone, by its name there."""

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
    described,
    reason,
    refuse_reserved,
)
from imgrec.models.backbones.base import Backbone, probe_feature_dim
from imgrec.models.normalization import for_channels
from imgrec.models.pretrained.loading import (
    Weights,
    check_architecture,
    load_exactly,
    read_weights,
    refuse_other_architecture,
)

_RESERVED = {
    "in_chans": "the number of channels is the data's (data.channels)",
    "img_size": "the image size is the data's (data.image_size)",
    "features_only": "a backbone gives one vector an image",
    "out_indices": "a backbone gives one vector an image",
    "feature_cls": "a backbone gives one vector an image",
    "checkpoint_path": "name a model folder or a safetensors file with `weights`",
    "pretrained_cfg": "name a model folder with `weights`",
    "pretrained_cfg_overlay": "name a model folder with `weights`",
    "pretrained_strict": "weights always have to fit",
    "pretrained_filter_fn": "name a model folder or a safetensors file with `weights`",
    "pretrained_model_args": "name a model folder with `weights`",
    "cache_dir": "set the environment variable HF_HOME",
}
_HIDDEN = {*_RESERVED, "num_classes", "cfg", "block", "block_args", "device", "dtype"}


def names() -> list[str]:
    """Every network that timm knows, and every set of weights of it as ``<network>.<tag>``."""
    return sorted({*timm_names(), *timm_names(pretrained=True)})


@cache
def find(name: str) -> Callable[..., Backbone] | None:
    """What builds the timm network ``name``, or ``None`` where timm has none of this name."""
    architecture, _, tag = name.partition(".")
    if "/" in name or ":" in name or not is_model(architecture):
        return None
    if tag and name not in timm_names(f"{architecture}.*", pretrained=True):
        return None

    def check(pretrained: bool = False, weights: str | None = None, **given: Any) -> None:
        network = {k: v for k, v in given.items() if k not in ("in_channels", "image_size", "load_weights")}
        refuse_reserved(name, network, _RESERVED)
        if pretrained and weights is not None:
            raise UserError(f'the backbone "{name}" takes either `pretrained: true` or `weights`, not both.')
        if pretrained and not getattr(get_pretrained_cfg(name), "has_weights", False):
            raise UserError(f'timm has no pretrained weights for the backbone "{name}".')
        network.pop("num_classes", None)
        check_network_arguments(name, network, lambda **own: _create(name, num_classes=0, **own), _HIDDEN)

    def build(
        in_channels: int = 3,
        image_size: int | None = None,
        pretrained: bool = False,
        weights: str | None = None,
        load_weights: bool = True,
        **network: Any,
    ) -> Backbone:
        check(pretrained, weights, **network)
        title = described(name, network)
        size = image_size or _native_size(name)
        adapted = adapted_arguments(name, in_channels, size, network)
        built = _build(name, title, size, num_classes=0, **adapted)
        cfg = _cfg(built)
        if pretrained and load_weights:
            _load_pretrained(built, name, adapted)
        elif weights is not None and load_weights:
            cfg |= _load_local(built, name, read_weights(weights), adapted)
        dim = probe_feature_dim(built, title, in_channels, size)
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
    except Exception as error:  # the arguments alone were fine: it is the images' size or channels
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
    except Exception:  # not buildable without data
        plain = _create(name, num_classes=0)
    return "img_size" in accepted_arguments(plain)


def adapted_arguments(name: str, in_channels: int, size: int, network: dict[str, Any]) -> dict[str, Any]:
    """The keyword arguments of timm for images of ``size`` pixels, ``network``'s own among them."""
    sized = {"img_size": size} if _takes_img_size(name) else {}
    own = {k: v for k, v in network.items() if k != "num_classes"}
    return {"in_chans": in_channels, **sized, **own}


def _load_pretrained(network: nn.Module, name: str, adapted: dict[str, Any]) -> None:
    try:
        loaded = _create(name, pretrained=True, **adapted)
    except Exception as error:  # the network, the disk, or weights of another shape
        raise UserError(f'the pretrained weights of "{name}" cannot be loaded: {reason(error)}') from error
    _hand_over(loaded, network, f'the pretrained weights of "{name}"')


def _load_local(network: nn.Module, name: str, weights: Weights, adapted: dict[str, Any]) -> dict[str, Any]:
    refuse_other_architecture(weights, name)
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
        built_with = f" The folder's network was built with {weights.model_args}." if weights.model_args else ""
        raise UserError(f'{title} do not fit the backbone "{name}": {_keys(str(error))}.{built_with}') from error
    _hand_over(loaded, network, title)
    return {k: v for k, v in config.items() if k in ("mean", "std")}


def create_from_folder(name: str, config: Mapping[str, Any], arguments: Mapping[str, Any], state: Any) -> nn.Module:
    """Return timm's network ``name`` with its classifier, filled with the tensors of a model folder.

    Only these tensors are read. Entries of ``config`` that name a file, a server or a loader of timm's are ignored.

    Args:
        name: the architecture, without a tag.
        config: the ``pretrained_cfg`` of the folder.
        arguments: the ``model_args`` of the folder.
        state: the tensors by name.

    Raises:
        UserError: If timm has no such network, an argument is reserved, or the tensors do not fit.
    """
    if not isinstance(arguments, Mapping):
        raise UserError(f"model_args: expected a mapping, got {arguments!r}.")
    if find(name) is None or "." in name:
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


def _hand_over(loaded: nn.Module, network: nn.Module, title: str) -> None:
    """Everything but the classifier, which is what ``loaded`` has and ``network`` has not."""
    own = network.state_dict().keys()
    load_exactly(network, {k: v for k, v in loaded.state_dict().items() if k in own}, title)


def _keys(message: str) -> str:
    lines = [line.strip().rstrip(".") for line in message.splitlines() if line.strip()]
    shown = [f"{line[:300]} ..." if len(line) > 300 else line for line in lines[:6]]
    return "; ".join(shown) + (f"; and {len(lines) - 6} more" if len(lines) > 6 else "")


def _docstring(name: str) -> str:
    function = model_entrypoint(name.partition(".")[0])
    first = (function.__doc__ or "").strip().partition("\n")[0].rstrip(". ")
    paper = getattr(get_pretrained_cfg(name), "origin_url", None)
    return f"""{first or name} (timm).

    Args:
        in_channels: the number of channels of the images.
        image_size: the side of the images, in pixels; position embeddings are made, or resampled, for it.
        pretrained: download timm's weights for this name; they bring their own mean and standard deviation.
        weights: a local model folder in timm's layout, or a safetensors file, to start from.
        load_weights: whether to load either; not where a checkpoint follows.
        **network: the network's own keyword arguments in timm, such as ``drop_path_rate``.

    Raises:
        UserError: an argument that the network refuses, images that it cannot take, weights that do not fit.

    Source: {paper or f"{function.__module__} in timm, https://github.com/huggingface/pytorch-image-models"}
    """
