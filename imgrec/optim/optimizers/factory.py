"""What makes an optimizer class a registry entry: a model goes in, parameter groups and checks come with it."""

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

_SHARED = """For every optimizer: `weight_decay` leaves out normalization layers and biases unless
`decay_norm_and_bias: true`; `layer_decay: 0.75`, say, multiplies the learning rate by that from each layer of a timm
backbone to the one before it; a fused kernel is the default where there is one, `fused: false` switches it off.
`groups: [{scope: head, lr_factor: 10}, {scope: "*.bias", weight_decay: 0}]` gives the parameters that a pattern means
another learning rate, weight decay, or any other of these arguments that a parameter group can have of its own.
`lr` is taken as it stands, whatever the batch size and the number of processes. With `lr_reference_batch: 256` it is
meant for steps of 256 images, and is multiplied by the images of a step (batch size x processes x accumulated batches)
over 256; the log and the run's summary hold both values."""
_FUSED: dict[Callable[..., Optimizer], tuple[str, ...]] = {
    torch.optim.SGD: ("cpu", "cuda"),
    torch.optim.Adam: ("cpu", "cuda"),
    torch.optim.AdamW: ("cpu", "cuda"),
    torch.optim.Adagrad: ("cpu",),
}
"""Where torch has a fused kernel."""

_REPLACED: dict[Callable[..., Optimizer], Callable[..., Optimizer]] = {torch.optim.SGD: SGD}
"""Classes of torch that fail with a fused kernel when a parameter thaws later, and what is built instead."""

_OF_ALL = frozenset(("lr", "weight_decay", "fused", "foreach", "capturable", "differentiable", "maximize"))
"""What a rule of ``groups`` says in another way, or what holds for all parameters."""

_GROUPS: Any = list[dict] | None  # type: ignore[type-arg]  # of [str, Any], a pattern "0" would be read as a number

_OURS = frozenset(("model", "groups", "layer_decay", "decay_norm_and_bias", "lr_reference_batch", "effective_batch"))
"""Arguments that every entry has, whatever its class."""


class OptimizerFactory:
    """Builds an optimizer of one class for a model.

    Calling it takes the model and the class's own arguments, and more: ``decay_norm_and_bias`` and ``layer_decay``, see
    :func:`imgrec.optim.parameter_groups`; ``lr_reference_batch``, see :func:`imgrec.optim.scale_learning_rate`, with
    the fact ``effective_batch``; what was scaled then stands in the optimizer's ``lr_scaling``; ``groups``, see
    :func:`imgrec.optim.read_rules`. Where the class has a
    fused kernel for the parameters' devices, that one is taken unless ``fused: false`` or ``foreach: true`` is given:
    on a CPU, Adam's step is five times faster with it.

    Args:
        cls: an optimizer class, or any callable whose first argument ``params`` takes parameter groups.
        defaults: values that stand in for the class's own defaults.
        doc: a docstring in place of the class's own.
        group_options: what a parameter group may say beside the class's own arguments, with its type.

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
        """The optimizer for the trainable parameters of ``model``.

        Raises:
            UserError: a value that is refused, no trainable parameter, layer decay where there are no layers, or a rule
                of ``groups`` that means nothing.
        """
        if not isinstance(model, nn.Module):
            raise UserError(f"`model` is no argument of a spec, got {model!r}.")
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
        self._refuse_idle(rules, optimizer)
        if values.get("fused"):
            # Lightning refuses to clip gradients for an optimizer that would unscale them itself
            optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
        optimizer.register_load_state_dict_post_hook(lay_out_as_parameters)
        optimizer.lr_scaling = scaling  # type: ignore[attr-defined]
        return optimizer

    def check_arguments(self, **given: Any) -> None:
        """Refuse what the class would refuse, on a parameter of four zeros."""
        if "model" in given:
            raise UserError(f"`model` is no argument of a spec, got {given['model']!r}.")
        values = self._checked({k: check_type(v, self.__annotations__.get(k, Any), k) for k, v in given.items()})
        if (reference := values.pop("lr_reference_batch", None)) is not None:
            scale_learning_rate(values["lr"], reference, values.get("effective_batch") or 1)
        for key in ("layer_decay", "decay_norm_and_bias", "effective_batch"):
            values.pop(key, None)
        rules = self._rules(values)
        self._refuse_idle(rules, self._build([nn.Parameter(torch.zeros(2, 2))], values))

    def _rules(self, values: dict[str, Any]) -> list[GroupRule]:
        hints = {n: hint for n, hint in self.__annotations__.items() if n not in _OURS and n not in _OF_ALL}
        rules = read_rules(values.pop("groups", None), {**hints, **self.group_options})
        if "weight_decay" not in self.__annotations__ and any(rule.weight_decay for rule in rules):
            raise UserError(f"groups: {_name(self.cls)} has no weight decay.")
        return rules

    def _refuse_idle(self, rules: Sequence[GroupRule], optimizer: Optimizer) -> None:
        for rule in rules:
            for option in rule.options:
                if option not in optimizer.defaults and option not in self.group_options:
                    raise UserError(f"{rule.where}: {_name(self.cls)} has one `{option}` for all parameters.")

    def _checked(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """The arguments with the defaults, their ranges checked."""
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
            raise UserError(f"{_name(self.cls)} refuses its arguments: {error or type(error).__name__}") from error

    def _fused(self, values: dict[str, Any], parameters: list[nn.Parameter]) -> bool | None:
        if values.get("foreach") or values.get("differentiable"):
            return None
        devices = _FUSED.get(self.cls, ())
        able = all(p.is_floating_point() and p.device.type in devices for p in parameters)
        return True if able else None


def _name(cls: Callable[..., Any]) -> str:
    return str(getattr(cls, "__name__", cls))


def lay_out_as_parameters(optimizer: Optimizer) -> None:
    """Bring the moments of an optimizer into the order in memory that their parameters have.

    A checkpoint keeps the order of the run that wrote it. Fused kernels go through parameter and moments element by
    element in memory: one in another order (channels last) would be updated with the moments of other elements.
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _signature(cls: Callable[..., Any], defaults: Mapping[str, Any]) -> inspect.Signature:
    """``model`` in place of ``params``, the class's other arguments with plain annotations, and ours."""
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
    """An annotation that plain data can have: tensors left out; where there is none, guessed from the default.

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
