"""Temporary changes of the mode of a network, and runs on meta tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn

T = TypeVar("T")


@contextmanager
def preserve_modes(module: nn.Module) -> Iterator[None]:
    """Restore the training or evaluation mode of each submodule on exit.

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
    """Set the whole module to evaluation mode inside the context.

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


def run_on_meta(module: nn.Module, run: Callable[[torch.device], T]) -> T:
    """Return the result of ``run`` on a module in evaluation mode with the meta device, which needs no arithmetic.

    If an operator has no meta kernel, ``run`` is called again with the device of the module.

    >>> run_on_meta(nn.Linear(2, 3), lambda device: device.type)
    'meta'
    """
    with evaluating(module):
        try:
            return run(torch.device("meta"))
        except NotImplementedError:
            return run(next(module.parameters()).device)
