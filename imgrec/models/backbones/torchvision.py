"""Classification networks of torchvision as backbones, as ``torchvision/<name>``."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torchvision.models as zoo
from timm.models import adapt_input_conv
from torch import Tensor, nn
from torchvision.models.vision_transformer import interpolate_embeddings

from imgrec.errors import UserError
from imgrec.models.backbones.arguments import check_network_arguments, describe_backbone, reason, refuse_reserved
from imgrec.models.backbones.base import Backbone, probe_feature_dim
from imgrec.models.normalization import IMAGENET_MEAN, IMAGENET_STD, for_channels
from imgrec.models.pretrained.loading import check_architecture, check_weights_architecture, load_exactly, read_weights

PREFIX = "torchvision/"

_RESERVED = {
    "image_size": "the image size follows from the data (data.image_size)",
    "input_size": "the image size follows from the data (data.image_size)",
    "aux_logits": "set `auxiliary` instead",
    "transform_input": "set model.normalize instead",
    "progress": "a download always shows its progress",
    "weights_backbone": "set `weights` to a model folder or a safetensors file",
}
_HIDDEN = {*_RESERVED, "num_classes", "block", "features", "inception_blocks", "blocks"}
_AUXILIARY = ("inception_v3", "googlenet")


def torchvision_backbone_names() -> list[str]:
    """Return the name of every classification network of torchvision, with its prefix."""
    return [PREFIX + name for name in zoo.list_models(module=zoo)]


@cache
def find_torchvision_backbone(name: str) -> Callable[..., Backbone] | None:
    """Return the function that builds ``torchvision/<name>``, or ``None`` if torchvision does not contain it."""
    if name not in torchvision_backbone_names():
        return None
    bare = name.removeprefix(PREFIX)
    facts = {"in_channels", "image_size", "num_classes", "load_weights"}
    known = facts | {"auxiliary"} if bare in _AUXILIARY else facts

    def check(pretrained: bool = False, weights: str | None = None, **arguments: Any) -> None:
        network = {k: v for k, v in arguments.items() if k not in known}
        refuse_reserved(name, network, _RESERVED)
        if pretrained and weights is not None:
            raise UserError(f'the backbone "{name}": expected `pretrained: true` or `weights`, got both.')
        if pretrained and not list(zoo.get_model_weights(bare)):
            raise UserError(f'torchvision has no pretrained weights for the backbone "{name}".')
        check_network_arguments(name, network, lambda **own: _create(bare, 1000, None, True, own), _HIDDEN)

    def build(
        in_channels: int = 3,
        image_size: int = 224,
        num_classes: int = 1000,
        pretrained: bool = False,
        weights: str | None = None,
        load_weights: bool = True,
        **network: Any,
    ) -> Backbone:
        check(pretrained, weights, **network)
        source = (pretrained and load_weights, weights if load_weights else None)
        return _assemble(name, in_channels, image_size, num_classes, False, *source, network)

    def build_with_auxiliary(
        in_channels: int = 3,
        image_size: int = 224,
        num_classes: int = 1000,
        auxiliary: bool = True,
        pretrained: bool = False,
        weights: str | None = None,
        load_weights: bool = True,
        **network: Any,
    ) -> Backbone:
        check(pretrained, weights, **network)
        source = (pretrained and load_weights, weights if load_weights else None)
        return _assemble(name, in_channels, image_size, num_classes, auxiliary, *source, network)

    def check_weights(weights: str | None = None, **_: Any) -> None:
        if weights is not None:
            check_architecture(weights, name)

    factory: Callable[..., Backbone] = build_with_auxiliary if bare in _AUXILIARY else build
    factory.__doc__ = _docstring(bare)
    vars(factory).update(check_arguments=check, check_weights=check_weights)
    return factory


def _assemble(
    name: str,
    in_channels: int,
    image_size: int,
    num_classes: int,
    auxiliary: bool,
    pretrained: bool,
    weights: str | None,
    network: Mapping[str, Any],
) -> Backbone:
    bare = name.removeprefix(PREFIX)
    title = describe_backbone(name, network)
    try:
        built = _create(bare, num_classes, image_size, auxiliary, network)
    except Exception as error:  # the arguments are valid, so the image size is not
        raise UserError(
            f"{title} cannot be built for images of {image_size} x {image_size} pixels: {reason(error)}"
        ) from error
    classifier = _remove_classifier(built)
    _adapt_first_convolution(built, in_channels)
    mean, std = _preprocessing(bare, pretrained)
    if pretrained:
        _load(built, _download(bare, name), classifier, in_channels, image_size, f'the pretrained weights of "{name}"')
    elif weights is not None:
        loaded = read_weights(weights)
        check_weights_architecture(loaded, name)
        _load(built, loaded.state, classifier, in_channels, image_size, f"the weights at {loaded.path}")
        mean, std = loaded.config.get("mean", mean), loaded.config.get("std", std)
    hint = " With `auxiliary: false` the images can be smaller." if auxiliary and bare in _AUXILIARY else ""
    dim = probe_feature_dim(built, title, in_channels, image_size, hint)
    return Backbone(built, dim, for_channels(mean, in_channels), for_channels(std, in_channels))


def _create(bare: str, num_classes: int, image_size: int | None, auxiliary: bool, own: Mapping[str, Any]) -> nn.Module:
    arguments: dict[str, Any] = {"num_classes": num_classes, **own}
    if bare in _AUXILIARY:
        arguments = {"init_weights": True, "aux_logits": auxiliary, "transform_input": False, **arguments}
    if image_size is not None and bare.startswith("vit_"):
        arguments["image_size"] = image_size
    if image_size is not None and bare.startswith("maxvit"):
        arguments["input_size"] = (image_size, image_size)
    network: nn.Module = zoo.get_model(bare, weights=None, **arguments)
    return network


def _remove_classifier(network: nn.Module) -> str:
    """Replace the last linear layer (of SqueezeNet, the last convolution) by an identity, and return its name."""
    last = {type_: name for name, module in network.named_modules() for type_ in _kinds(module)}
    name: str = last.get(nn.Linear) or last[nn.Conv2d]
    network.set_submodule(name, nn.Identity())
    return name


def _kinds(module: nn.Module) -> tuple[type[nn.Module], ...]:
    return tuple(kind for kind in (nn.Linear, nn.Conv2d) if isinstance(module, kind))


def _first_convolution(network: nn.Module) -> tuple[str, nn.Conv2d]:
    return next((name, module) for name, module in network.named_modules() if isinstance(module, nn.Conv2d))


def _adapt_first_convolution(network: nn.Module, in_channels: int) -> None:
    name, old = _first_convolution(network)
    if old.in_channels == in_channels:
        return
    new = nn.Conv2d(
        in_channels,
        old.out_channels,
        old.kernel_size,  # type: ignore[arg-type]
        old.stride,  # type: ignore[arg-type]
        old.padding,  # type: ignore[arg-type]
        old.dilation,  # type: ignore[arg-type]
        bias=old.bias is not None,
    )
    new.weight.data.copy_(adapt_input_conv(in_channels, old.weight.data))
    if old.bias is not None and new.bias is not None:
        new.bias.data.copy_(old.bias.data)
    network.set_submodule(name, new)


def _load(
    network: nn.Module, state: Mapping[str, Tensor], classifier: str, in_channels: int, image_size: int, title: str
) -> None:
    own = network.state_dict()
    state = {k: v for k, v in state.items() if not k.startswith(f"{classifier}.")}
    first = _first_convolution(network)[0] + ".weight"
    if first in state and state[first].shape[1] != in_channels:
        state[first] = adapt_input_conv(in_channels, state[first], base_chans=state[first].shape[1])
    position = "encoder.pos_embedding"
    if (
        isinstance(network, zoo.VisionTransformer)
        and position in state
        and state[position].shape != own[position].shape
    ):
        state = dict(interpolate_embeddings(image_size, network.patch_size, OrderedDict(state)))
    auxiliary = {k for k in {*state, *own} if k.startswith(("AuxLogits.", "aux1.", "aux2."))}
    final = {k for k in auxiliary if k in own and k in state and k.split(".")[1].startswith("fc")}
    unlike = {k for k in final if state[k].shape != own[k].shape}  # auxiliary classifiers of other classes
    dropped = unlike | {k for k in auxiliary if k not in own}
    may_lack = unlike | {k for k in auxiliary if k not in state}
    load_exactly(network, {k: v for k, v in state.items() if k not in dropped}, title, may_lack)


def _download(bare: str, name: str) -> dict[str, Tensor]:
    try:
        state: dict[str, Tensor] = zoo.get_model_weights(bare).DEFAULT.get_state_dict(progress=True, check_hash=True)
    except Exception as error:  # no connection, no space, a damaged download
        raise UserError(f'the pretrained weights of "{name}" cannot be loaded: {reason(error)}') from error
    return state


def _preprocessing(bare: str, pretrained: bool) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if bare in _AUXILIARY:  # trained on [-1, 1], to which transform_input of torchvision converts
        return (0.5,) * 3, (0.5,) * 3
    if pretrained:
        preset = zoo.get_model_weights(bare).DEFAULT.transforms()
        return tuple(preset.mean), tuple(preset.std)
    return IMAGENET_MEAN, IMAGENET_STD


def _docstring(bare: str) -> str:
    function = zoo.get_model_builder(bare)
    auxiliary = (
        "        auxiliary: ``True`` trains the auxiliary classifiers as well. Defaults to ``True``.\n"
        if bare in _AUXILIARY
        else ""
    )
    return f"""{bare} (torchvision), without its last layer.

    Args:
        in_channels: Number of channels of the images, a fact of the data. The first convolution is adapted to it.
        image_size: Height and width of the images in pixels, a fact of the data.
        num_classes: Number of classes, a fact of the data, for auxiliary classifiers.
{auxiliary}        pretrained: ``True`` downloads the default weights of torchvision, with their mean and standard
deviation.
        weights: Local model folder or safetensors file with initial weights under the names of torchvision.
        load_weights: ``False`` skips both, for example before a checkpoint is loaded. Defaults to ``True``.
        **network: Keyword arguments of the network in torchvision, such as ``dropout``.

    Raises:
        UserError: If an argument is invalid, if the network does not accept the images, or if the weights do not fit.

    Source: {function.__module__}, https://docs.pytorch.org/vision/stable/models.html
    """
