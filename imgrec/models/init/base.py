"""Base class and registry of initializers, their check and application, and the fans of a weight."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from imgrec.errors import SpecError, UserError
from imgrec.models.utils.layers import SHORT, listed
from imgrec.models.utils.patterns import Scope, in_scope, scope_names
from imgrec.registry import Registry, Specs, as_list
from imgrec.utils.signature import place

_NO_WEIGHTS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.Embedding)


class Initializer(ABC):
    """Base class of functions that set initial values of parameters of a classifier.

    The constructor of a subclass has the argument ``scope``, and may have the parameters ``in_channels`` and
    ``image_size``, facts of the data. Random values come from the default generator of torch.

    Args:
        scope: Names or patterns of parameters. See :func:`imgrec.models.utils.patterns.scope_names`. Defaults to all.
    """

    def __init__(self, scope: Scope = None) -> None:
        self.scope = scope

    @abstractmethod
    def __call__(self, model: nn.Module) -> list[str]:
        """Set parameters of a classifier, or of any other module, in place, and return their names.

        Raises:
            UserError: If no parameter in the scope is of the kind.
        """


INITIALIZERS: Registry[Initializer] = Registry("initializer", "initializers", specific=("std", "mean"))
"""Initializers by name."""


class Weight(NamedTuple):
    """Weight with inputs and outputs, the layer that contains it, and the inputs and outputs per group."""

    layer: nn.Module
    key: str
    fan_in: int
    fan_out: int
    groups: int
    bias: nn.Parameter | None

    @property
    def tensor(self) -> Tensor:
        """Present values."""
        found: Tensor = getattr(self.layer, self.key)
        return found

    @torch.no_grad()
    def put(self, values: Tensor) -> None:
        """Set the values. A weight that is computed from other parameters receives the nearest possible values."""
        if parametrize.is_parametrized(self.layer, self.key):
            setattr(self.layer, self.key, values)
        else:
            self.tensor.copy_(values)


def fans(weight: Tensor, groups: int = 1, transposed: bool = False) -> tuple[int, int]:
    """Return the number of inputs of each output of a layer, and the number of outputs of each input.

    Args:
        weight: ``(out, in / groups, ...)`` of a linear layer or a convolution, ``(in, out / groups, ...)`` of a
            transposed one.
        groups: Number of groups of the convolution, which the functions of torch ignore. Defaults to 1.
        transposed: ``True`` for a transposed convolution. Defaults to ``False``.

    >>> fans(torch.empty(64, 32, 3, 3)), fans(torch.empty(32, 1, 3, 3), groups=32)
    ((288, 576), (9, 9))
    """
    positions = weight[0][0].numel()
    first, second = weight.shape[0] // groups * positions, weight.shape[1] * positions
    return (first, second) if transposed else (second, first)


def weights_in(model: nn.Module) -> Iterator[tuple[str, Weight]]:
    """Yield the weights of linear layers, convolutions and attention by name, without normalizations and embeddings."""
    for name, module in model.named_modules():
        if isinstance(module, _NO_WEIGHTS):
            continue
        for key in ("weight", "in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"):
            value = getattr(module, key, None)
            if not isinstance(value, Tensor) or value.dim() < 2:
                continue
            if not (parametrize.is_parametrized(module, key) or isinstance(value, nn.Parameter)):
                continue
            groups = module.groups if isinstance(module, nn.modules.conv._ConvNd) else 1
            both = fans(value, groups, isinstance(module, nn.modules.conv._ConvTransposeNd))
            bias = getattr(module, key.replace("weight", "bias"), None)
            full = f"{name}.{key}" if name else key
            yield full, Weight(module, key, *both, groups, bias if isinstance(bias, nn.Parameter) else None)


def select_weights(model: nn.Module, scope: Scope) -> dict[str, Weight]:
    """Return the weights of :func:`weights_in` that match ``scope``, at least one per pattern.

    Raises:
        UserError: If a pattern matches no weight. The message contains names.
    """
    scope_names(model, scope, "scope")
    every = dict(weights_in(model))
    for pattern in [scope] if isinstance(scope, str) else scope or []:
        if not any(in_scope(name, pattern) for name in every):
            raise UserError(
                f'scope: the pattern "{pattern}" matches no weight of a linear layer or a convolution. The network has '
                f"{listed([name.removeprefix(SHORT) for name in every])}."
            )
    return {name: weight for name, weight in every.items() if in_scope(name, scope)}


def check_init(init: Specs | None, where: str, facts: Collection[str], loaded: bool) -> None:
    """Raise the errors of :func:`initialize` that follow from the specs alone.

    Args:
        init: Specs of :data:`INITIALIZERS`.
        where: Key in the config.
        facts: Names of the facts for the constructors.
        loaded: True if pretrained weights are loaded before. A ``scope`` is then required.

    Raises:
        SpecError: If a spec is invalid, or if it would overwrite all loaded weights.
    """
    for i, spec in enumerate(as_list(init)):
        at = _at(init, where, i)
        INITIALIZERS.check(spec, at, facts)
        if loaded and INITIALIZERS.parse(spec)[1].get("scope") is None:
            raise SpecError(
                f"{place(at)}the weights of the backbone are loaded, and this would overwrite them. Set `scope` to the "
                "part to initialize, for example `head`."
            )


def initialize(model: nn.Module, init: Specs | None, facts: Mapping[str, Any], where: str = "init") -> list[str]:
    """Set the initial values of parameters of a classifier, in place and in order. Later specs have priority.

    Args:
        model: Classifier.
        init: Specs of :data:`INITIALIZERS`. ``None`` keeps the values of the layers.
        facts: Facts of the data for the constructors.
        where: Key in the config for messages.

    Returns:
        Names of the initialized parameters, in order.

    Raises:
        SpecError: If an initializer matches no parameter.
    """
    initialized: list[str] = []
    for i, spec in enumerate(as_list(init)):
        at = _at(init, where, i)
        initializer = INITIALIZERS.build(spec, at, **facts)
        if not isinstance(initializer, Initializer):
            raise SpecError(f"{place(at)}expected an Initializer, got {type(initializer).__name__} from {spec!r}.")
        try:
            initialized += initializer(model)
        except UserError as error:
            raise SpecError(f"{place(at)}{error}") from error
    return initialized


def _at(init: Specs | None, where: str, number: int) -> str:
    return f"{where}[{number}]" if isinstance(init, list) else where
