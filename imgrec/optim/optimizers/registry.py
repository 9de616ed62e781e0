"""The registry of optimizers: `imgrec.optim.optimizers.builtin`, the wrappers, and the optimizers of timm."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from functools import cache
from typing import Any

import timm.optim
from torch import nn
from torch.optim import Optimizer

from imgrec.errors import SpecError
from imgrec.optim.optimizers.factory import OptimizerFactory
from imgrec.registry import Registry, Spec
from imgrec.utils.signature import Entry

_TIMM: Any = timm.optim  # its __init__ exports these functions for people, not for type checkers


class TimmOptimizers:
    """The optimizers of timm under timm's own names, those that run on this machine."""

    def names(self) -> Collection[str]:
        """Every name."""
        return [name for name in _TIMM.list_optimizers() if unavailable(name) is None]

    @staticmethod
    @cache
    def find(name: str) -> OptimizerFactory | None:
        """What builds the optimizer; ``None`` where timm does not know it or it cannot run here."""
        if name not in _TIMM.list_optimizers() or unavailable(name) is not None:
            return None
        info = _TIMM.get_optimizer_info(name)
        cls = _TIMM.get_optimizer_class(name, bind_defaults=False)
        # timm gives every optimizer that has a momentum the same one, whatever the class's own default is
        defaults = {**({"momentum": 0.9} if info.has_momentum else {}), **(info.defaults or {})}
        doc = f"{info.description}.\n\nSource: {cls.__module__}.{cls.__qualname__}, as timm's `{name}`."
        return OptimizerFactory(cls, defaults, doc)


def unavailable(name: str) -> str | None:
    """Why timm's optimizer ``name`` cannot be used here, or ``None``."""
    info = _TIMM.get_optimizer_info(name)
    if info.second_order:
        return "it needs gradients of gradients, which a training step does not keep"
    if isinstance(info.opt_class, str):
        try:
            _TIMM.get_optimizer_class(name)
        except (AssertionError, ImportError):
            package = info.opt_class.partition(".")[0]
            return f"it needs the package {package} and a CUDA device"
    return None


class OptimizerRegistry(Registry[Optimizer]):
    """A registry whose every entry takes a model, whichever way it was found.

    >>> OPTIMIZERS.build({"name": "torch.optim.RMSprop", "lr": 0.01}, model=nn.Linear(2, 2)).defaults["lr"]
    0.01
    """

    def entry(self, name: str, where: str = "") -> Entry[Optimizer]:
        """As :meth:`Registry.entry`; a class that takes ``params`` is given the arguments of all optimizers."""
        if name not in self and name in _TIMM.list_optimizers():
            place = f"{where}: " if where else ""
            raise SpecError(f'{place}the optimizer "{name}" cannot be used here: {unavailable(name)}.')
        found = super().entry(name, where)
        if isinstance(found.factory, OptimizerFactory) or "params" not in _parameters(found.factory):
            return found
        return Entry(name, OptimizerFactory(found.factory))


OPTIMIZERS = OptimizerRegistry("optimizer", "optimizers", catalogue=TimmOptimizers(), specific=("alpha", "beta", "rho"))
"""Optimizers by name, for a model: ``OPTIMIZERS.build(spec, where, model=model)``."""


def build_optimizer(
    spec: Spec, model: nn.Module, where: str = "model.optimizer", effective_batch: int | None = None
) -> Optimizer:
    """The optimizer that the spec names, for the trainable parameters of ``model``.

    Args:
        spec: a name, or a name with the class's own arguments (``lr``, ``betas``, ...) and these:
            ``weight_decay``, not applied to normalization layers and biases unless ``decay_norm_and_bias: true``;
            ``layer_decay``, see :func:`imgrec.optim.parameter_groups`; ``groups``, what patterns of parameter names are
            given of their own, see :func:`imgrec.optim.read_rules`; ``fused: false`` against the fused kernel that
            is the default where there is one; ``lr_reference_batch``, see :func:`imgrec.optim.scale_learning_rate`.
        model: what is trained, on the device where it is trained.
        where: the place in the config, for messages.
        effective_batch: images in an optimizer step, over all processes and accumulated batches, where that is known.

    Raises:
        SpecError: an unknown name or argument, a value that is refused, no trainable parameter, layer decay on a model
            whose layers nobody knows.

    >>> build_optimizer({"name": "adamw", "lr": 1e-3, "weight_decay": 0.05}, nn.Linear(2, 2)).param_groups[1]["name"]
    'no_decay'
    """
    facts = {} if effective_batch is None else {"effective_batch": effective_batch}
    return OPTIMIZERS.build(spec, where, model=model, **facts)


def check_optimizer(spec: Spec, where: str = "model.optimizer") -> None:
    """Raise what :func:`build_optimizer` would raise, as far as it can be told without the model."""
    OPTIMIZERS.check(spec, where, {"model"})


def _parameters(factory: Callable[..., Any]) -> Collection[str]:
    try:
        return inspect.signature(factory).parameters
    except (TypeError, ValueError):
        return ()
