"""Layers inside a network: found by patterns of their names, and listened to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from imgrec.errors import UserError, suggestion
from imgrec.models.utils.hooks import HookGroup

SHORT = "backbone.network."
"""What a pattern may leave out: where a classifier has the network that timm or torchvision built."""


def find_layers(model: nn.Module, pattern: str, where: str = "layers") -> list[str]:
    """The full names of the modules of ``model`` that ``pattern`` means, in the order of the network.

    Args:
        model: any network.
        pattern: a name as ``named_modules`` gives it, with or without ``backbone.network.`` before it; ``*``, ``?`` and
            ``[12]`` stand for what they stand for in file names.
        where: the place in the config, for the message.

    Raises:
        UserError: there is none; it lists names.

    >>> find_layers(nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU(), nn.Conv2d(1, 1, 1)), "[02]")
    ['0', '2']
    """
    names = [name for name, _ in model.named_modules() if name]
    found = [n for n in names if fnmatchcase(n, pattern) or fnmatchcase(n.removeprefix(SHORT), pattern)]
    if not found:
        short = [name.removeprefix(SHORT) for name in names]
        raise UserError(
            f'{where}: the network has no layer "{pattern}".{suggestion(pattern, short)} Its layers: {listed(short)}.'
        )
    return found


def listed(names: Sequence[str], at_most: int = 24) -> str:
    """The names of a few layers, the outermost of them first in the choice."""
    chosen: list[str] = []
    for depth in range(1 + max((name.count(".") for name in names), default=0)):
        level = [name for name in names if name.count(".") <= depth]
        if chosen and len(level) > at_most:
            break
        chosen = level
    return ", ".join(chosen[:at_most]) + (", ..." if len(chosen) < len(names) else "")


class LayerOutputs(HookGroup):
    """Within ``with``: keeps what the named layers of ``model`` give.

    Args:
        model: any network.
        names: full names of modules in it.

    >>> network = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
    >>> with LayerOutputs(network, ["0"]) as layers:
    ...     _ = network(Tensor([[1.0, 2.0]]))
    >>> layers.take()[0].shape
    torch.Size([1, 3])
    """

    def __init__(self, model: nn.Module, names: Iterable[str]) -> None:
        super().__init__()
        self.model = model
        self.names = tuple(names)
        self._outputs: dict[str, Tensor] = {}

    def register_hooks(self) -> list[RemovableHandle]:
        """Register the hooks; a layer that is not there raises UserError."""
        handles = []
        for name in dict.fromkeys(self.names):
            try:
                module = self.model.get_submodule(name)
            except AttributeError as error:
                raise UserError(f'the network has no layer "{name}" any more: it was changed in training') from error
            handles.append(module.register_forward_hook(partial(self._keep, name)))
        return handles

    def _keep(self, name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        found = output[0] if isinstance(output, tuple) and output else output
        if not isinstance(found, Tensor):
            raise UserError(f'the layer "{name}" gives no tensor, but {type(output).__name__}: take one inside it')
        self._outputs[name] = found

    def take(self) -> tuple[Tensor, ...]:
        """What the layers gave last, in the order of the names; it is forgotten here.

        Raises:
            UserError: a layer was not called.
        """
        missing = [name for name in self.names if name not in self._outputs]
        if missing:
            raise UserError(f'the layer "{missing[0]}" is not called when the network runs: take another one')
        found = tuple(self._outputs[name] for name in self.names)
        self._outputs = {}
        return found
