"""Changes of the widths of a network as plain data, and their application.

The width of a layer is stored in the shapes of its tensors and in attributes of its module such as ``out_channels``,
``groups``, ``normalized_shape`` or ``num_heads``. Both are found by comparing two networks, for modules of any class.
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
    """Return the surgery step ``channels`` that changes the widths of ``before`` to those of ``after``.

    Args:
        before: Network.
        after: Network with the same modules and smaller widths.

    Example:
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
def resize(model: nn.Module, step: Mapping[str, Any], indices: Mapping[str, Tensor] | None = None) -> nn.Module:
    """Apply a step ``channels`` to the layers of a network, in place.

    Parameters and buffers remain the same objects with new data, so that an optimizer remains valid. Its states must be
    resized with :func:`select`.

    Args:
        model: Network with all modules and tensors of the step, each at least as large.
        step: Step of :func:`widths_step`.
        indices: Indices of the remaining values of each tensor, int64 into the flattened old tensor, in the new shape.
            Defaults to the first rows and columns, which is sufficient if weights are loaded afterwards.

    Raises:
        UserError: If the step does not fit the model. The model is then unchanged.
    """
    attributes, shapes = step.get("attributes"), step.get("shapes")
    if not isinstance(attributes, Mapping) or not isinstance(shapes, Mapping):
        raise UserError("channels: expected a step with the mappings `attributes` and `shapes`.")
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
        if id(tensor) not in done:  # a shared tensor is resized once
            done.add(id(tensor))
            _resize(tensor, shape, None if indices is None else indices[name])
    return model


def select(tensor: Tensor, indices: Tensor) -> Tensor:
    """Return the remaining values of a tensor with the shape of a pruned parameter, such as its gradient.

    Args:
        tensor: Tensor in the old shape.
        indices: Indices into the flattened old tensor, int64, in the new shape.

    Example:
        >>> select(torch.tensor([[1, 2], [3, 4]]), torch.tensor([[2], [3]]))
        tensor([[3],
                [4]])
    """
    values = tensor.detach().contiguous().flatten()[indices.to(tensor.device)]
    return _match_memory_format(values, tensor)


def all_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield every parameter and buffer under each of its names."""
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def _resize(tensor: Tensor, shape: list[int], indices: Tensor | None) -> None:
    gradient, tensor.grad = tensor.grad, None
    if indices is None:
        leading = tuple(slice(size) for size in shape)
        _put(
            tensor, _match_memory_format(tensor.detach()[leading].clone(memory_format=torch.contiguous_format), tensor)
        )
        return
    _put(tensor, select(tensor, indices))
    if gradient is not None:
        tensor.grad = select(gradient, indices)


def _put(tensor: Tensor, new: Tensor) -> None:
    """Replace the data of a tensor, so that gradients are expected in the new shape.

    While a graph that used the tensor exists, for example by a stored loss, autograd caches the old shape of the
    tensor. A change of the type resets this cache.
    """
    tensor.data = torch.empty(0, dtype=torch.float32 if tensor.dtype == torch.float64 else torch.float64)
    tensor.data = new


def _match_memory_format(new: Tensor, like: Tensor) -> Tensor:
    is_channels_last = like.dim() == 4 and not like.is_contiguous()
    return new.contiguous(memory_format=torch.channels_last) if is_channels_last and new.dim() == 4 else new


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
