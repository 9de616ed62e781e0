"""Search of layers by name, and recording of their outputs."""

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
"""Prefix of the network of timm or torchvision in a classifier, optional in patterns."""


def find_layers(model: nn.Module, pattern: str, where: str = "layers") -> list[str]:
    """Return the full names of the modules of ``model`` that match ``pattern``, in the order of the network.

    Args:
        model: Network.
        pattern: Name in ``named_modules``, with or without the prefix ``backbone.network.``, or a pattern with ``*``,
            ``?`` and ``[12]``, as in file names.
        where: Key in the config for messages.

    Raises:
        UserError: If no layer matches. The message contains names of layers.

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
    """Return the names of a few layers as text, the outermost layers first."""
    selected: list[str] = []
    for depth in range(1 + max((name.count(".") for name in names), default=0)):
        level = [name for name in names if name.count(".") <= depth]
        if selected and len(level) > at_most:
            break
        selected = level
    return ", ".join(selected[:at_most]) + (", ..." if len(selected) < len(names) else "")


class LayerOutputs(HookGroup):
    """Context manager that stores the outputs of named layers.

    Args:
        model: Network.
        names: Full names of modules of the network.

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
        """Register the hooks.

        Raises:
            UserError: If the network has no layer of a name.
        """
        handles = []
        for name in dict.fromkeys(self.names):
            try:
                module = self.model.get_submodule(name)
            except AttributeError as error:
                raise UserError(f'the network has no layer "{name}", because it was changed in training.') from error
            handles.append(module.register_forward_hook(partial(self._store, name)))
        return handles

    def _store(self, name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        found = output[0] if isinstance(output, tuple) and output else output
        if not isinstance(found, Tensor):
            raise UserError(
                f'the layer "{name}": expected a tensor as output, got {type(output).__name__}. '
                "Select a layer inside it."
            )
        self._outputs[name] = found

    def take(self) -> tuple[Tensor, ...]:
        """Return the last outputs of the layers, in the order of the names, and discard the stored ones.

        Raises:
            UserError: If a layer was not called.
        """
        missing = [name for name in self.names if name not in self._outputs]
        if missing:
            raise UserError(f'the layer "{missing[0]}" is not called in a forward pass. Select another layer.')
        found = tuple(self._outputs[name] for name in self.names)
        self._outputs = {}
        return found
