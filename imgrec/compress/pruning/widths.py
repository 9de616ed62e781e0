"""Networks of other widths: what differs between two of one architecture, and how one becomes the other.

A layer's width stands in the shapes of its tensors and in numbers that its module keeps beside them (``out_channels``,
``groups``, ``normalized_shape``, ``num_heads``, ...). Both are found by comparing, whatever class the module is of.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from imgrec.compress.surgery import Step, surgical
from imgrec.errors import UserError

Plain = int | float | tuple[int | float, ...] | list[int | float]


def widths_step(before: nn.Module, after: nn.Module) -> Step:
    """The surgical step ``channels`` that makes ``before`` as wide as ``after``, which has the same modules.

    >>> step = widths_step(nn.Linear(4, 4), nn.Linear(4, 2))
    >>> step["attributes"], step["shapes"]
    ({'': {'out_features': 2}}, {'weight': [2, 4], 'bias': [2]})
    """
    attributes: dict[str, dict[str, Any]] = {}
    others = dict(after.named_modules())
    for name, module in before.named_modules():
        theirs: dict[str, Any] = dict(_plain_attributes(others[name]))
        changed = {
            key: list(theirs[key]) if isinstance(theirs[key], tuple) else theirs[key]
            for key, value in _plain_attributes(module).items()
            if key in theirs and theirs[key] != value
        }
        if changed:
            attributes[name] = changed
    shapes = {name: list(tensor.shape) for name, tensor in all_tensors(after)}
    old = {name: list(tensor.shape) for name, tensor in all_tensors(before)}
    return {
        "step": "channels",
        "attributes": attributes,
        "shapes": {name: shape for name, shape in shapes.items() if old[name] != shape},
    }


def _merged(first: Step, second: Step) -> Step:
    names = {**first["attributes"], **second["attributes"]}
    return {
        "step": "channels",
        "attributes": {n: {**first["attributes"].get(n, {}), **second["attributes"].get(n, {})} for n in names},
        "shapes": {**first["shapes"], **second["shapes"]},
    }


@surgical("channels", merge=_merged)
def resize(model: nn.Module, step: Mapping[str, Any], kept: Mapping[str, Tensor] | None = None) -> nn.Module:
    """Give the layers of ``model`` the widths that a step ``channels`` says, in place.

    Parameters and buffers stay the objects that they were, with other data: an optimizer goes on holding them, though
    what it keeps for each has to be resized with :func:`select`.

    Args:
        model: has every module and every tensor that the step names, each at least as large.
        step: what :func:`widths_step` gave.
        kept: for each tensor that the step names, int64 indices into the flattened old one, in the shape of the new
            one. Left out, the first rows and columns stay, which is enough where weights are loaded afterwards.

    Raises:
        UserError: the step does not fit the model, which is as it was then.
    """
    attributes, shapes = step.get("attributes"), step.get("shapes")
    if not isinstance(attributes, Mapping) or not isinstance(shapes, Mapping):
        raise UserError("a step `channels` needs the mappings `attributes` and `shapes`")
    modules, tensors = dict(model.named_modules()), dict(all_tensors(model))
    for name, values in attributes.items():
        if name not in modules or not isinstance(values, Mapping):
            raise UserError(f'the network has no module "{name}"')
        own = _plain_attributes(modules[name])
        for key, value in values.items():
            if key not in own or not _fits(value, own[key]):
                raise UserError(f'the module "{name}" has no number `{key}` that could become {value!r}')
    for name, shape in shapes.items():
        if name not in tensors:
            raise UserError(f'the network has no tensor "{name}"')
        if not _is_within(shape, tensors[name].shape):
            raise UserError(f'the tensor "{name}" of shape {tuple(tensors[name].shape)} cannot become {shape!r}')
    for name, values in attributes.items():
        own = _plain_attributes(modules[name])
        for key, value in values.items():
            setattr(modules[name], key, type(own[key])(value))
    done: set[int] = set()
    for name, shape in shapes.items():
        tensor = tensors[name]
        if id(tensor) not in done:  # one that two modules share is resized once
            done.add(id(tensor))
            _resize(tensor, shape, None if kept is None else kept[name])
    return model


def select(tensor: Tensor, kept: Tensor) -> Tensor:
    """What stays of ``tensor``: a parameter's gradient, or what an optimizer or an average keeps of its shape.

    Args:
        tensor: of the old shape.
        kept: int64 indices into the flattened old tensor, in the new shape.

    >>> select(torch.tensor([[1, 2], [3, 4]]), torch.tensor([[2], [3]]))
    tensor([[3],
            [4]])
    """
    chosen = tensor.detach().contiguous().flatten()[kept.to(tensor.device)]
    return _laid_out(chosen, tensor)


def all_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every parameter and buffer by each of its names."""
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def _resize(tensor: Tensor, shape: list[int], kept: Tensor | None) -> None:
    gradient, tensor.grad = tensor.grad, None
    if kept is None:
        leading = tuple(slice(size) for size in shape)
        _put(tensor, _laid_out(tensor.detach()[leading].clone(memory_format=torch.contiguous_format), tensor))
        return
    _put(tensor, select(tensor, kept))
    if gradient is not None:
        tensor.grad = select(gradient, kept)


def _put(tensor: Tensor, new: Tensor) -> None:
    """Give a tensor other data; gradients are expected in the new shape from then on.

    While any graph is alive that the tensor was used in, a loss that somebody keeps, autograd goes on with what it
    knows of the tensor's shape; it forgets that only where the type changes.
    """
    tensor.data = torch.empty(0, dtype=torch.float32 if tensor.dtype == torch.float64 else torch.float64)
    tensor.data = new


def _laid_out(new: Tensor, like: Tensor) -> Tensor:
    pixel_by_pixel = like.dim() == 4 and not like.is_contiguous()
    return new.contiguous(memory_format=torch.channels_last) if pixel_by_pixel and new.dim() == 4 else new


def _plain_attributes(module: nn.Module) -> dict[str, Plain]:
    return {k: v for k, v in vars(module).items() if not k.startswith("_") and _is_plain(v)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return bool(value) and all(_is_number(each) for each in value)
    return _is_number(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _fits(value: Any, own: Plain) -> bool:
    if isinstance(own, tuple | list):
        return isinstance(value, tuple | list) and len(value) == len(own) and all(map(_is_number, value))
    return _is_number(value)


def _is_within(shape: Any, old: torch.Size) -> bool:
    return (
        isinstance(shape, list)
        and len(shape) == len(old)
        and all(isinstance(n, int) and 1 <= n <= most for n, most in zip(shape, old, strict=True))
    )
