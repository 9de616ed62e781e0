"""Factory of optimizers: adds parameter groups, checks and shared arguments to an optimizer class."""

from __future__ import annotations

import functools
import inspect
import operator
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Union, get_args, get_origin

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from imgrec.errors import UserError
from imgrec.losses.base import in_range
from imgrec.optim.lr_scaling import scale_learning_rate
from imgrec.optim.optimizers.sgd import SGD
from imgrec.optim.param_groups import parameter_groups
from imgrec.optim.rules import GroupRule, read_rules
from imgrec.utils.signature import check_type

_SHARED = """For every optimizer: `weight_decay` excludes normalization layers and biases unless
`decay_norm_and_bias: true`. `layer_decay: 0.75` multiplies the learning rate by 0.75 from each layer of a timm backbone
to the previous one. A fused kernel is the default if there is one, and `fused: false` disables it.
`groups: [{scope: head, lr_factor: 10}, {scope: "*.bias", weight_decay: 0}]` sets the learning rate, the weight decay,
or any other argument that a parameter group can have, for the parameters that match a pattern.
`lr` does not depend on the batch size and the number of processes. With `lr_reference_batch: 256` it is defined for
steps of 256 images. It is then multiplied by the images per step (batch size x processes x accumulated batches) over
256. The log and the run summary contain both values."""
_FUSED: dict[Callable[..., Optimizer], tuple[str, ...]] = {
    torch.optim.SGD: ("cpu", "cuda"),
    torch.optim.Adam: ("cpu", "cuda"),
    torch.optim.AdamW: ("cpu", "cuda"),
    torch.optim.Adagrad: ("cpu",),
}
"""Devices with a fused kernel in torch."""

_REPLACED: dict[Callable[..., Optimizer], Callable[..., Optimizer]] = {torch.optim.SGD: SGD}
"""Replacements of torch classes whose fused kernel fails if a parameter is unfrozen later."""

_OF_ALL = frozenset(("lr", "weight_decay", "fused", "foreach", "capturable", "differentiable", "maximize"))
"""Arguments that a rule of ``groups`` sets by another key, or that apply to all parameters."""

_GROUPS: Any = list[dict] | None  # type: ignore[type-arg]  # with [str, Any], jsonargparse would read a pattern "0" as a number

_SHARED_ARGUMENTS = frozenset(
    ("model", "groups", "layer_decay", "decay_norm_and_bias", "lr_reference_batch", "effective_batch")
)
"""Arguments of every entry."""


class OptimizerFactory:
    """Factory that builds an optimizer of one class for a model.

    A call accepts the model, the arguments of the class, and the shared arguments: ``decay_norm_and_bias`` and
    ``layer_decay``, see :func:`imgrec.optim.parameter_groups`, ``lr_reference_batch`` with the fact
    ``effective_batch``, see :func:`imgrec.optim.scale_learning_rate`, and ``groups``, see
    :func:`imgrec.optim.read_rules`. The attribute ``lr_scaling`` of the optimizer holds the scaling. If the class has a
    fused kernel for the devices of the parameters, it is used unless ``fused: false`` or ``foreach: true`` is set. On a
    CPU, the step of Adam is five times faster with it.

    Args:
        cls: Optimizer class, or a callable whose first argument ``params`` accepts parameter groups.
        defaults: Values that replace the defaults of the class.
        doc: Docstring that replaces that of the class.
        group_options: Keys of parameter groups in addition to the arguments of the class, with their types.

    >>> OptimizerFactory(torch.optim.SGD, {"momentum": 0.9})(nn.Linear(2, 2), lr=0.1).defaults["momentum"]
    0.9
    """

    def __init__(
        self,
        cls: Callable[..., Optimizer],
        defaults: Mapping[str, Any] | None = None,
        doc: str | None = None,
        group_options: Mapping[str, Any] | None = None,
    ) -> None:
        self.cls = cls
        self.group_options = dict(group_options or {})
        self.__doc__ = f"{inspect.cleandoc(doc if doc is not None else inspect.getdoc(cls) or '')}\n\n{_SHARED}"
        self.__signature__ = _signature(cls, defaults or {})
        self.__annotations__ = {n: p.annotation for n, p in self.__signature__.parameters.items()}

    def __call__(self, model: nn.Module, **arguments: Any) -> Optimizer:
        """Build the optimizer for the trainable parameters of ``model``.

        Raises:
            UserError: If a value is invalid, no parameter is trainable, layer decay is set without layers, or a rule of
                ``groups`` has no match.
        """
        if not isinstance(model, nn.Module):
            raise UserError(f"model: expected no such argument in a spec, got {model!r}.")
        values = self._checked(arguments)
        reference, effective_batch = values.pop("lr_reference_batch", None), values.pop("effective_batch", None)
        scaling = None if reference is None else scale_learning_rate(values["lr"], reference, effective_batch)
        if scaling is not None:
            values["lr"] = scaling.used
        layer_decay = values.pop("layer_decay", None)
        decay_norm_and_bias = values.pop("decay_norm_and_bias", False)
        rules = self._rules(values)
        groups = parameter_groups(
            model,
            values.get("weight_decay", 0.0),
            decay_norm_and_bias=decay_norm_and_bias,
            lr=values.get("lr"),
            layer_decay=layer_decay,
            rules=rules,
        )
        if "weight_decay" not in values:
            for group in groups:
                del group["weight_decay"]
        parameters = [p for group in groups for p in group["params"]]
        if "fused" in values and values["fused"] is None:
            values["fused"] = self._fused(values, parameters)
        optimizer = self._build(groups, values)
        self._check_group_options(rules, optimizer)
        if values.get("fused"):
            # Lightning does not clip gradients for an optimizer that unscales them itself
            optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
        optimizer.register_load_state_dict_post_hook(match_memory_format)
        optimizer.lr_scaling = scaling  # type: ignore[attr-defined]
        return optimizer

    def check_arguments(self, **given: Any) -> None:
        """Raise the errors of the class, on a parameter of four zeros."""
        if "model" in given:
            raise UserError(f"model: expected no such argument in a spec, got {given['model']!r}.")
        values = self._checked({k: check_type(v, self.__annotations__.get(k, Any), k) for k, v in given.items()})
        if (reference := values.pop("lr_reference_batch", None)) is not None:
            scale_learning_rate(values["lr"], reference, values.get("effective_batch") or 1)
        for key in ("layer_decay", "decay_norm_and_bias", "effective_batch"):
            values.pop(key, None)
        rules = self._rules(values)
        self._check_group_options(rules, self._build([nn.Parameter(torch.zeros(2, 2))], values))

    def _rules(self, values: dict[str, Any]) -> list[GroupRule]:
        hints = {n: hint for n, hint in self.__annotations__.items() if n not in _SHARED_ARGUMENTS and n not in _OF_ALL}
        rules = read_rules(values.pop("groups", None), {**hints, **self.group_options})
        if "weight_decay" not in self.__annotations__ and any(rule.weight_decay for rule in rules):
            raise UserError(f"groups: {_name(self.cls)} has no weight decay.")
        return rules

    def _check_group_options(self, rules: Sequence[GroupRule], optimizer: Optimizer) -> None:
        for rule in rules:
            for option in rule.options:
                if option not in optimizer.defaults and option not in self.group_options:
                    raise UserError(f"{rule.where}: `{option}` of {_name(self.cls)} applies to all parameters.")

    def _checked(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments with the defaults, after a check of their ranges."""
        defaults = {
            n: p.default
            for n, p in self.__signature__.parameters.items()
            if p.default is not p.empty and p.kind is not p.VAR_KEYWORD
        }
        values = {**defaults, **arguments}
        for name in ("lr", "weight_decay"):
            if isinstance(values.get(name), int | float):
                in_range(name, values[name])
        if values.get("layer_decay") is not None:
            in_range("layer_decay", values["layer_decay"], high=1.0, open_low=True)
        return values

    def _build(self, parameters: Iterable[Any], values: dict[str, Any]) -> Optimizer:
        try:
            return _REPLACED.get(self.cls, self.cls)(parameters, **values)
        except (TypeError, RuntimeError, AssertionError, ImportError) as error:
            raise UserError(f"{_name(self.cls)}: invalid arguments: {error or type(error).__name__}") from error

    def _fused(self, values: dict[str, Any], parameters: list[nn.Parameter]) -> bool | None:
        if values.get("foreach") or values.get("differentiable"):
            return None
        devices = _FUSED.get(self.cls, ())
        able = all(p.is_floating_point() and p.device.type in devices for p in parameters)
        return True if able else None


def _name(cls: Callable[..., Any]) -> str:
    return str(getattr(cls, "__name__", cls))


def match_memory_format(optimizer: Optimizer) -> None:
    """Convert the moments of an optimizer to the memory format of their parameters.

    A checkpoint stores the memory format of the run that wrote it. Fused kernels process parameters and moments element
    by element in memory. With different formats, such as channels last, elements would be updated with the wrong
    moments.
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _signature(cls: Callable[..., Any], defaults: Mapping[str, Any]) -> inspect.Signature:
    """Return a signature with ``model`` instead of ``params``, plain annotations, and the shared arguments."""
    own = inspect.signature(cls).parameters
    try:
        hints = typing.get_type_hints(cls.__init__ if inspect.isclass(cls) else cls)
    except (NameError, TypeError):
        hints = {}
    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [inspect.Parameter("model", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=Any)]
    extra = []
    for name, parameter in own.items():
        if name == "params" or parameter.kind is parameter.VAR_POSITIONAL:
            continue
        if parameter.kind is parameter.VAR_KEYWORD:
            extra.append(parameter.replace(annotation=Any))
            continue
        default = defaults.get(name, parameter.default)
        if name == "lr" and not isinstance(default, int | float):
            default = parameter.empty  # a schedule multiplies it, so it must be a number
        hint = float if name == "lr" else plain_annotation(hints.get(name, parameter.empty), default)
        parameters.append(inspect.Parameter(name, keyword, default=default, annotation=hint))
    if "weight_decay" in own:
        parameters.append(inspect.Parameter("decay_norm_and_bias", keyword, default=False, annotation=bool))
    if "lr" in own:
        parameters.append(inspect.Parameter("layer_decay", keyword, default=None, annotation=float | None))
        scaled = ("lr_reference_batch", "effective_batch")
        parameters += [inspect.Parameter(name, keyword, default=None, annotation=int | None) for name in scaled]
    parameters.append(inspect.Parameter("groups", keyword, default=None, annotation=_GROUPS))
    return inspect.Signature([*parameters, *extra])


def plain_annotation(hint: Any, default: Any) -> Any:
    """Return an annotation for plain data, without tensors. A missing annotation follows from the default.

    >>> plain_annotation(tuple[float | Tensor, float | Tensor], (0.9, 0.99))
    tuple[float, float]
    """
    if hint is inspect.Parameter.empty or hint is Any:
        if isinstance(default, bool):
            return bool
        if isinstance(default, int | float):
            return float if isinstance(default, float) or default == 0 else int | float
        return Any
    arguments = get_args(hint)
    if get_origin(hint) in (Union, types.UnionType):
        kept = [plain_annotation(a, inspect.Parameter.empty) for a in arguments if a is not Tensor]
        return functools.reduce(operator.or_, kept) if kept else Any
    if get_origin(hint) is tuple:
        return tuple[tuple(plain_annotation(a, inspect.Parameter.empty) for a in arguments)]  # type: ignore[misc]
    return hint
