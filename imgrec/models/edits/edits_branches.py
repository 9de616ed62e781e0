"""Behind which layers something is put: the ends of residual branches, or layers that are named."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

from torch import nn

from imgrec.errors import UserError
from imgrec.models.edits.placement import choose_layers, put_in_place, refuse_layers
from imgrec.models.utils.layers import SHORT, find_layers
from imgrec.models.utils.patterns import Scope
from imgrec.models.utils.probe import Given, Trial, try_out


def choose_ends(
    network: nn.Module, scope: Scope, after: Scope, in_channels: int, image_size: int, slots: bool = False
) -> dict[str, Given]:
    """The layers behind which something is put, by name, in the order of the network, with what they give.

    Args:
        network: a backbone's.
        scope: the part of the network whose residual branches count; see :class:`imgrec.models.edits.base.Edit`.
        after: names of layers, or patterns, in the place of the ends of residual branches.
        in_channels: of the images that the network is tried out with.
        image_size: their side, in pixels.
        slots: take the identity that hands a branch on, where there is one: it can be replaced.

    Raises:
        UserError: there is no such layer, or it is called several times.
    """
    if after is not None:
        if scope is not None:
            raise UserError("`after` names the layers; `scope` says which residual branches: one of them, not both.")
        trial = try_out(network, in_channels, image_size)
        return _named(network, after, trial)
    trial = try_out(network, in_channels, image_size)
    if not trial.branches:
        raise UserError("the network has no residual branch; `after` names the layers behind which this is put.")
    ends = [(branch.slot if slots else None) or branch.end for branch in trial.branches]
    if None in ends:
        branch = next(b for b in trial.branches if b.end is None)
        raise UserError(
            f"a residual branch of the network, that of {branch.last or 'a function'}, is ended by code and not by a "
            "layer; `after` names the layers behind which this is put."
        )
    chosen = choose_layers(network, scope, lambda name, _: name in ends, "end of a residual branch")
    return {name: trial.given[name] for name in ends if name in chosen and name is not None}


def put_behind(network: nn.Module, new: Mapping[str, nn.Module], key: str) -> nn.Module:
    """``network`` with new layers behind those that are named; an identity is replaced.

    The two stand in an ``nn.Sequential`` as ``layer`` and ``key``.
    """
    modules = dict(network.named_modules())
    replaced: dict[nn.Module, nn.Module] = {}
    for name, layer in new.items():
        old = modules[name]
        both = OrderedDict([("layer", old), (key, layer.train(old.training))])
        replaced[old] = layer if type(old) is nn.Identity else nn.Sequential(both)
    return put_in_place(network, replaced)


def _named(network: nn.Module, after: str | list[str], trial: Trial) -> dict[str, Given]:
    patterns = [after] if isinstance(after, str) else after
    names = {name for pattern in patterns for name in find_layers(network, pattern.removeprefix(SHORT), "`after`")}
    refuse_layers(
        [n for n in names if n not in trial.given], "layer", "it gives no tensor, or is never called", "after"
    )
    refuse_layers([n for n in names if trial.given[n].calls > 1], "layer", "it is called in several places", "after")
    return {name: trial.given[name] for name, _ in network.named_modules() if name in names}
