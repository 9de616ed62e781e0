"""What stands around another optimizer: its groups and its state are the other one's own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from imgrec.errors import UserError


class OptimizerWrapper(Optimizer):
    """An optimizer around another one.

    Groups, state and what is in a checkpoint are those of the optimizer inside, so that a schedule, a callback or
    surgery on the network that works on the one works on the other.

    Args:
        base: the optimizer inside.
    """

    def __init__(self, base: Optimizer) -> None:
        if not isinstance(base, Optimizer):
            raise UserError(f"`base` is an optimizer or its spec, got {type(base).__name__}.")
        # as torch restores a pickled one: the hooks and the profiling of `step`, without parameters of its own
        self.__setstate__({"base": base, "defaults": base.defaults})

    base: Optimizer

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]  # torch's is an attribute
        """The groups of the optimizer inside."""
        return self.base.param_groups

    @property
    def state(self) -> Any:  # type: ignore[override]
        """The state of the optimizer inside."""
        return self.base.state

    @property
    def lr_scaling(self) -> Any:
        """What became of the learning rate; see :func:`imgrec.optim.scale_learning_rate`."""
        return getattr(self.base, "lr_scaling", None)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Give the optimizer inside another group."""
        self.base.add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        """That of the optimizer inside."""
        return self.base.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Have the optimizer inside load its state."""
        self.base.load_state_dict(state_dict)

    def __repr__(self) -> str:
        return f"{type(self).__name__} around {self.base!r}"


def chain(optimizer: Optimizer) -> Iterator[Optimizer]:
    """An optimizer, and those inside it, from the outermost to the innermost."""
    yield optimizer
    while isinstance(optimizer, OptimizerWrapper):
        optimizer = optimizer.base
        yield optimizer


def trained_parameters(optimizer: Optimizer) -> list[Tensor]:
    """The parameters of an optimizer that are to have a gradient, in the order of its groups."""
    return [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
