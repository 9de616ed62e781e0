"""What the weights are drawn from before training: how it is named, checked and done."""

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
    """Gives parameters of a classifier the values that training starts from.

    A subclass says in its constructor what it takes, ``scope`` among it, and does it in :meth:`__call__`. It may name
    the facts ``in_channels`` and ``image_size``. What it draws, it draws from torch's default generator.

    Args:
        scope: names of parameters, or patterns; see :func:`imgrec.models.utils.patterns.scope_names`. ``None`` means
        all.
    """

    def __init__(self, scope: Scope = None) -> None:
        self.scope = scope

    @abstractmethod
    def __call__(self, model: nn.Module) -> list[str]:
        """Set the parameters of a classifier, or of any other module, in place; give the names of what was set.

        Raises:
            UserError: there is nothing of the kind in the scope.
        """


INITIALIZERS: Registry[Initializer] = Registry("initializer", "initializers", specific=("std", "mean"))
"""Initializers by name."""


class Weight(NamedTuple):
    """A weight that has inputs and outputs, where it stands, and how many of both each group of it has."""

    layer: nn.Module
    key: str
    fan_in: int
    fan_out: int
    groups: int
    bias: nn.Parameter | None

    @property
    def tensor(self) -> Tensor:
        """The weight as it is."""
        found: Tensor = getattr(self.layer, self.key)
        return found

    @torch.no_grad()
    def put(self, values: Tensor) -> None:
        """Give it other values; what is computed from other parameters becomes as near to these as can be."""
        if parametrize.is_parametrized(self.layer, self.key):
            setattr(self.layer, self.key, values)
        else:
            self.tensor.copy_(values)


def fans(weight: Tensor, groups: int = 1, transposed: bool = False) -> tuple[int, int]:
    """How many values go into each result of a layer, and into how many results each value goes.

    Args:
        weight: ``(out, in / groups, ...)`` of a linear layer or a convolution, ``(in, out / groups, ...)`` of a
            transposed one.
        groups: of the convolution. torch's own functions leave them out of account.
        transposed: whether it is one.

    >>> fans(torch.empty(64, 32, 3, 3)), fans(torch.empty(32, 1, 3, 3), groups=32)
    ((288, 576), (9, 9))
    """
    places = weight[0][0].numel()
    first, second = weight.shape[0] // groups * places, weight.shape[1] * places
    return (first, second) if transposed else (second, first)


def weights_in(model: nn.Module) -> Iterator[tuple[str, Weight]]:
    """The weights of linear layers, convolutions and the like, by name; none of a normalization or an embedding."""
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


def choose_weights(model: nn.Module, scope: Scope) -> dict[str, Weight]:
    """Those of :func:`weights_in` that ``scope`` means, at least one for each pattern.

    Raises:
        UserError: a pattern means none; it lists names.
    """
    scope_names(model, scope, "scope")
    every = dict(weights_in(model))
    for pattern in [scope] if isinstance(scope, str) else scope or []:
        if not any(in_scope(name, pattern) for name in every):
            raise UserError(
                f'scope: the pattern "{pattern}" matches no weight of a linear layer or a convolution; the network\'s: '
                f"{listed([name.removeprefix(SHORT) for name in every])}."
            )
    return {name: weight for name, weight in every.items() if in_scope(name, scope)}


def check_init(init: Specs | None, where: str, facts: Collection[str], loaded: bool) -> None:
    """Raise what :func:`initialize` would raise for these specs, as far as the specs alone can tell.

    Args:
        init: specs of :data:`INITIALIZERS`.
        where: the place in the config.
        facts: the names of the facts that will be there.
        loaded: whether pretrained weights are loaded before; what is drawn over them has to be named then.
    """
    for i, spec in enumerate(as_list(init)):
        at = _at(init, where, i)
        INITIALIZERS.check(spec, at, facts)
        if loaded and INITIALIZERS.parse(spec)[1].get("scope") is None:
            raise SpecError(
                f"{place(at)}the backbone's weights are loaded, and this would write over them; name with `scope` what "
                "is to start anew, `head` say."
            )


def initialize(model: nn.Module, init: Specs | None, facts: Mapping[str, Any], where: str = "init") -> list[str]:
    """Give a classifier's parameters the values that training starts from, in place; later specs write over earlier.

    Args:
        model: a classifier.
        init: specs of :data:`INITIALIZERS`; ``None`` leaves what each layer drew for itself.
        facts: what the constructors may name.
        where: the place in the config, for messages.

    Returns:
        The names of the parameters that were set, in order.

    Raises:
        SpecError: an initializer that finds nothing to do.
    """
    done: list[str] = []
    for i, spec in enumerate(as_list(init)):
        at = _at(init, where, i)
        initializer = INITIALIZERS.build(spec, at, **facts)
        if not isinstance(initializer, Initializer):
            raise SpecError(f"{place(at)}{spec!r} gives a {type(initializer).__name__}, not an Initializer.")
        try:
            done += initializer(model)
        except UserError as error:
            raise SpecError(f"{place(at)}{error}") from error
    return done


def _at(init: Specs | None, where: str, number: int) -> str:
    return f"{where}[{number}]" if isinstance(init, list) else where
