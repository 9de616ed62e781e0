"""Layers of a kind, found by patterns of their names; and other layers in their place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import nn

from imgrec.errors import UserError, suggestion
from imgrec.models.utils.layers import SHORT, listed
from imgrec.models.utils.patterns import Scope, in_scope


def choose_layers(
    network: nn.Module, scope: Scope, wanted: Callable[[str, nn.Module], bool], kind: str
) -> dict[str, nn.Module]:
    """The layers of a kind in ``scope``, by name, in the order of the network; at least one for each pattern.

    Args:
        network: a backbone's; in patterns, ``backbone.network.`` may stand before its names.
        scope: see :class:`imgrec.models.edits.base.Edit`.
        wanted: whether a module with its name is of the kind.
        kind: what such a layer is called, for messages.

    Raises:
        UserError: the network has no layer of the kind, or a pattern means none; it lists names.

    >>> network = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1))
    >>> list(choose_layers(network, "[01]", lambda _, module: isinstance(module, nn.Linear), "linear layer"))
    ['0']
    """
    found = {name: module for name, module in network.named_modules() if name and wanted(name, module)}
    if not found:
        raise UserError(f"the network has no {kind}.")
    for pattern in [scope] if isinstance(scope, str) else scope or []:
        if any(in_scope(SHORT + name, pattern) for name in found):
            continue
        every = [name for name, _ in network.named_modules() if name]
        if any(in_scope(SHORT + name, pattern) for name in every):
            raise UserError(f'the pattern "{pattern}" matches no {kind}; the network\'s: {listed([*found])}.')
        raise UserError(
            f'the pattern "{pattern}" matches no layer.{suggestion(pattern, every)} The network\'s: {listed(every)}.'
        )
    return {name: module for name, module in found.items() if in_scope(SHORT + name, scope)}


def put_in_place(network: nn.Module, new: Mapping[nn.Module, nn.Module]) -> nn.Module:
    """``network`` with layers in the place of others, wherever these stand; a new one may hold the old one.

    >>> block = nn.Sequential(nn.Linear(1, 1), nn.ReLU())
    >>> put_in_place(block, {block[0]: nn.Sequential(block[0], nn.Dropout())})[0][1]
    Dropout(p=0.5, inplace=False)
    """
    for old, each in new.items():
        each.train(old.training)
    for parent in list(network.modules()):
        for name, child in list(parent._modules.items()):  # `named_children` leaves out what stands there twice
            if child is not None and child in new:
                setattr(parent, name, new[child])
    return new.get(network, network)


def refuse_layers(names: Sequence[str], kind: str, why: str, by: str = "scope") -> None:
    """Raise :class:`UserError` where there are ``names``, layers that cannot be changed, with the reason.

    ``by`` is the argument that names others.
    """
    if names:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise UserError(f"{', '.join(names[:3])}{more}: {why}; name with `{by}` the {kind}s that are to change.")
