"""Selection and replacement of layers, and insertion after the ends of residual branches."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

from torch import nn

from imgrec.errors import UserError, suggestion
from imgrec.models.utils.layers import SHORT, find_layers, listed
from imgrec.models.utils.patterns import Scope, in_scope
from imgrec.models.utils.probe import LayerOutput, ModelProbe, probe


def select_layers(
    network: nn.Module, scope: Scope, matches: Callable[[str, nn.Module], bool], kind: str
) -> dict[str, nn.Module]:
    """Return the layers of a kind in ``scope`` by name, in the order of the network, at least one per pattern.

    Args:
        network: Network of a backbone. The prefix ``backbone.network.`` in patterns is optional.
        scope: Names or patterns of layers. See :class:`imgrec.models.edits.base.Edit`.
        matches: Function that returns True if a module with its name is of the kind.
        kind: Noun for the kind in messages.

    Raises:
        UserError: If the network has no layer of the kind, or if a pattern matches none.

    >>> network = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1))
    >>> list(select_layers(network, "[01]", lambda _, module: isinstance(module, nn.Linear), "linear layer"))
    ['0']
    """
    found = {name: module for name, module in network.named_modules() if name and matches(name, module)}
    if not found:
        raise UserError(f"the network has no {kind}.")
    for pattern in [scope] if isinstance(scope, str) else scope or []:
        if any(in_scope(SHORT + name, pattern) for name in found):
            continue
        every = [name for name, _ in network.named_modules() if name]
        if any(in_scope(SHORT + name, pattern) for name in every):
            raise UserError(f'the pattern "{pattern}" matches no {kind}. The network has {listed([*found])}.')
        raise UserError(
            f'the pattern "{pattern}" matches no layer.{suggestion(pattern, every)} The network has {listed(every)}.'
        )
    return {name: module for name, module in found.items() if in_scope(SHORT + name, scope)}


def replace_modules(network: nn.Module, new: Mapping[nn.Module, nn.Module]) -> nn.Module:
    """Return ``network`` with layers replaced. A new layer may contain the old one.

    >>> block = nn.Sequential(nn.Linear(1, 1), nn.ReLU())
    >>> replace_modules(block, {block[0]: nn.Sequential(block[0], nn.Dropout())})[0][1]
    Dropout(p=0.5, inplace=False)
    """
    for old, each in new.items():
        each.train(old.training)
    for parent in list(network.modules()):
        for name, child in list(parent._modules.items()):  # `named_children` skips repeated modules
            if child is not None and child in new:
                setattr(parent, name, new[child])
    return new.get(network, network)


def refuse_layers(names: Sequence[str], kind: str, reason: str, argument: str = "scope") -> None:
    """Raise an error if there are ``names`` of layers that cannot be changed.

    Args:
        names: Names of the layers.
        kind: Noun for the kind of the layers.
        reason: Reason for the message.
        argument: Argument that selects layers. Defaults to ``scope``.

    Raises:
        UserError: If ``names`` is not empty.
    """
    if names:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise UserError(f"{', '.join(names[:3])}{more}: {reason}. Set `{argument}` to the {kind}s to change.")


def find_branch_ends(
    network: nn.Module, scope: Scope, after: Scope, in_channels: int, image_size: int, slots: bool = False
) -> dict[str, LayerOutput]:
    """Return the layers after which a layer is inserted, by name, in the order of the network, with their outputs.

    Args:
        network: Network of a backbone.
        scope: Part of the network whose residual branches are used. See :class:`imgrec.models.edits.base.Edit`.
        after: Names or patterns of layers, instead of the ends of residual branches.
        in_channels: Number of channels of the images.
        image_size: Height and width of the images, in pixels.
        slots: ``True`` prefers the identity behind a branch, which can be replaced. Defaults to ``False``.

    Raises:
        UserError: If there is no such layer, or if it is called several times.
    """
    if after is not None:
        if scope is not None:
            raise UserError("after: expected `after` (layers) or `scope` (residual branches), got both.")
        probed = probe(network, in_channels, image_size)
        return _named(network, after, probed)
    probed = probe(network, in_channels, image_size)
    if not probed.branches:
        raise UserError("the network has no residual branch. Set `after` to the layers after which to insert.")
    ends = [(branch.slot if slots else None) or branch.end for branch in probed.branches]
    if None in ends:
        branch = next(b for b in probed.branches if b.end is None)
        raise UserError(
            f"the residual branch of {branch.last or 'a function'} ends with a function and not with a layer. Set "
            "`after` to the layers after which to insert."
        )
    selected = select_layers(network, scope, lambda name, _: name in ends, "end of a residual branch")
    return {name: probed.outputs[name] for name in ends if name in selected and name is not None}


def insert_after(network: nn.Module, new: Mapping[str, nn.Module], key: str) -> nn.Module:
    """Return ``network`` with new layers after the named layers. An identity is replaced.

    Both are in an ``nn.Sequential`` as ``layer`` and ``key``.
    """
    modules = dict(network.named_modules())
    replaced: dict[nn.Module, nn.Module] = {}
    for name, layer in new.items():
        old = modules[name]
        both = OrderedDict([("layer", old), (key, layer.train(old.training))])
        replaced[old] = layer if type(old) is nn.Identity else nn.Sequential(both)
    return replace_modules(network, replaced)


def _named(network: nn.Module, after: str | list[str], probed: ModelProbe) -> dict[str, LayerOutput]:
    patterns = [after] if isinstance(after, str) else after
    names = {name for pattern in patterns for name in find_layers(network, pattern.removeprefix(SHORT), "`after`")}
    refuse_layers(
        [n for n in names if n not in probed.outputs], "layer", "it returns no tensor, or is never called", "after"
    )
    refuse_layers([n for n in names if probed.outputs[n].calls > 1], "layer", "it is called in several places", "after")
    return {name: probed.outputs[name] for name, _ in network.named_modules() if name in names}
