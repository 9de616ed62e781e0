"""Registry of optimizers: `imgrec.optim.optimizers.builtin`, the wrappers, and the optimizers of timm."""

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

_TIMM: Any = timm.optim  # its __init__ lists these functions without types


class TimmOptimizers:
    """Optimizers of timm under their timm names, if they run on this machine."""

    def names(self) -> Collection[str]:
        """Return every name."""
        return [name for name in _TIMM.list_optimizers() if unavailable(name) is None]

    @staticmethod
    @cache
    def find(name: str) -> OptimizerFactory | None:
        """Return the factory of the optimizer, or ``None`` if timm does not have it or it does not run here."""
        if name not in _TIMM.list_optimizers() or unavailable(name) is not None:
            return None
        info = _TIMM.get_optimizer_info(name)
        cls = _TIMM.get_optimizer_class(name, bind_defaults=False)
        # timm sets the same momentum for every optimizer that has one, instead of the default of its class
        defaults = {**({"momentum": 0.9} if info.has_momentum else {}), **(info.defaults or {})}
        doc = f"{info.description}.\n\nSource: {cls.__module__}.{cls.__qualname__}, as timm's `{name}`."
        return OptimizerFactory(cls, defaults, doc)


def unavailable(name: str) -> str | None:
    """Return the reason for which the timm optimizer ``name`` does not run here, or ``None``."""
    info = _TIMM.get_optimizer_info(name)
    if info.second_order:
        return "it requires second-order gradients, which a training step does not compute"
    if isinstance(info.opt_class, str):
        try:
            _TIMM.get_optimizer_class(name)
        except (AssertionError, ImportError):
            package = info.opt_class.partition(".")[0]
            return f"it requires the package {package} and a CUDA device"
    return None


class OptimizerRegistry(Registry[Optimizer]):
    """Registry whose entries accept a model.

    >>> OPTIMIZERS.build({"name": "torch.optim.RMSprop", "lr": 0.01}, model=nn.Linear(2, 2)).defaults["lr"]
    0.01
    """

    def entry(self, name: str, where: str = "") -> Entry[Optimizer]:
        """Return the entry of a name. A class with the argument ``params`` gets the arguments of all optimizers."""
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
    """Build the optimizer that the spec names, for the trainable parameters of ``model``.

    Every optimizer accepts these arguments in addition to its own:

    - ``weight_decay`` excludes normalization layers and biases unless ``decay_norm_and_bias: true``
    - ``layer_decay``, see :func:`imgrec.optim.parameter_groups`
    - ``groups``, settings by patterns of parameter names, see :func:`imgrec.optim.read_rules`
    - ``fused: false`` disables the fused kernel, which is the default if there is one
    - ``lr_reference_batch``, see :func:`imgrec.optim.scale_learning_rate`

    Args:
        spec: Name, or mapping with ``name`` and arguments.
        model: Model to train, on the device of the training.
        where: Key in the config for messages.
        effective_batch: Number of images per optimizer step, over all processes and accumulated batches. Defaults to
            unknown.

    Raises:
        SpecError: If a name, argument or value is invalid, no parameter is trainable, or layer decay is set for a model
            without known layers.

    >>> build_optimizer({"name": "adamw", "lr": 1e-3, "weight_decay": 0.05}, nn.Linear(2, 2)).param_groups[1]["name"]
    'no_decay'
    """
    facts = {} if effective_batch is None else {"effective_batch": effective_batch}
    return OPTIMIZERS.build(spec, where, model=model, **facts)


def check_optimizer(spec: Spec, where: str = "model.optimizer") -> None:
    """Raise the errors of :func:`build_optimizer` that do not depend on the model."""
    OPTIMIZERS.check(spec, where, {"model"})


def _parameters(factory: Callable[..., Any]) -> Collection[str]:
    try:
        return inspect.signature(factory).parameters
    except (TypeError, ValueError):
        return ()
