"""Base class of optimizers that wrap another optimizer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from imgrec.errors import UserError


class OptimizerWrapper(Optimizer):
    """Optimizer that wraps another optimizer.

    Groups, state and state dict are those of the wrapped optimizer. A schedule, a callback or model surgery that
    supports the wrapped optimizer also supports the wrapper.

    Args:
        base: Wrapped optimizer.
    """

    def __init__(self, base: Optimizer) -> None:
        if not isinstance(base, Optimizer):
            raise UserError(f"base: expected an optimizer or its spec, got {type(base).__name__}.")
        # as torch restores a pickled optimizer: the hooks and the profiling of `step`, without parameters
        self.__setstate__({"base": base, "defaults": base.defaults})

    base: Optimizer

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]  # an attribute in torch
        """Groups of the wrapped optimizer."""
        return self.base.param_groups

    @property
    def state(self) -> Any:  # type: ignore[override]
        """State of the wrapped optimizer."""
        return self.base.state

    @property
    def lr_scaling(self) -> Any:
        """Scaling of the learning rate, see :func:`imgrec.optim.scale_learning_rate`."""
        return getattr(self.base, "lr_scaling", None)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the wrapped optimizer."""
        self.base.add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        """Return the state dict of the wrapped optimizer."""
        return self.base.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state dict of the wrapped optimizer."""
        self.base.load_state_dict(state_dict)

    def __repr__(self) -> str:
        return f"{type(self).__name__} around {self.base!r}"


def chain(optimizer: Optimizer) -> Iterator[Optimizer]:
    """Yield an optimizer and the optimizers that it wraps, from the outermost to the innermost."""
    yield optimizer
    while isinstance(optimizer, OptimizerWrapper):
        optimizer = optimizer.base
        yield optimizer


def trained_parameters(optimizer: Optimizer) -> list[Tensor]:
    """Return the parameters of an optimizer that require a gradient, in the order of its groups."""
    return [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
