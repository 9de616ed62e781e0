"""A network in another mode for a while, or tried out: afterwards each part is in the mode that it was in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn

T = TypeVar("T")


@contextmanager
def preserve_modes(module: nn.Module) -> Iterator[None]:
    """Within, ``train()`` and ``eval()`` may be called at will; a part that was frozen stays so afterwards.

    >>> network = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2).eval())
    >>> with preserve_modes(network):
    ...     _ = network.train()
    >>> [part.training for part in network]
    [True, False]
    """
    modes = {part: part.training for part in module.modules()}
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Within, the whole module is in evaluation mode.

    >>> network = nn.Dropout()
    >>> with evaluating(network):
    ...     network.training
    False
    >>> network.training
    True
    """
    with preserve_modes(module):
        module.eval()
        yield


def tried_out(module: nn.Module, run: Callable[[torch.device], T]) -> T:
    """What ``run`` finds out about a module in evaluation mode: on meta tensors, which cost no arithmetic.

    Where an operator has no meta kernel, ``run`` is called once more, with the module's own device.

    >>> tried_out(nn.Linear(2, 3), lambda device: device.type)
    'meta'
    """
    with evaluating(module):
        try:
            return run(torch.device("meta"))
        except NotImplementedError:
            return run(next(module.parameters()).device)
