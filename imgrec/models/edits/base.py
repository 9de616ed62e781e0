"""Changes of a backbone's layers before it is trained: how they are named, checked and made."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from typing import Any

from torch import nn

from imgrec.errors import SpecError, UserError
from imgrec.models.backbones.base import Backbone, probe_feature_dim
from imgrec.models.utils.patterns import Scope
from imgrec.registry import Registry, Spec, Specs, as_list
from imgrec.utils.signature import place


class Edit(ABC):
    """A change of layers that is plain data: done again to the same network, it gives the same layers.

    A subclass says in its constructor what it takes, ``scope`` among it, and does it in :meth:`__call__`. It may name
    the facts ``in_channels`` and ``image_size`` to try the network out. Layers that survive keep their weights.

    Args:
        scope: names of modules, or patterns; see :func:`imgrec.models.utils.patterns.scope_names`. ``None`` means all.
    """

    def __init__(self, scope: Scope = None) -> None:
        self.scope = scope

    @abstractmethod
    def __call__(self, network: nn.Module) -> nn.Module:
        """The network with the change, which is made in place or around it.

        Raises:
            UserError: the network has no layer of the kind in the scope, or cannot be changed there.
        """

    def fold(self, network: nn.Module) -> bool:
        """Make ordinary layers of what this has made, in place, where it is of use in training alone.

        Returns:
            Whether that is so: then it is no part of the network that is shared.
        """
        return False


EDITS: Registry[Edit] = Registry("edit", "edits", specific=("size", "to"))
"""Edits by name: modules in, modules out, described by plain data."""


def check_edits(edits: Specs | None, where: str, facts: Collection[str]) -> None:
    """Raise what :func:`apply_edits` would raise for these specs, as far as the specs alone can tell."""
    for i, spec in enumerate(as_list(edits)):
        EDITS.check(spec, _at(edits, where, i), facts)


def apply_edits(backbone: Backbone, edits: Specs | None, facts: Mapping[str, Any], where: str = "edits") -> None:
    """Make edits to a backbone's network, in place and in order; after each it must still take the images.

    Args:
        backbone: its ``network`` is changed.
        edits: specs of :data:`EDITS`.
        facts: what the constructors may name; ``in_channels`` and ``image_size`` are needed.
        where: the place in the config, for messages.

    Raises:
        SpecError: an edit that cannot be made, or after which the network does not take the images any more.
    """
    for i, spec in enumerate(as_list(edits)):
        at = _at(edits, where, i)
        edit = EDITS.build(spec, at, **facts)
        if not isinstance(edit, Edit):
            raise SpecError(f"{place(at)}{spec!r} gives a {type(edit).__name__}, not an imgrec.models.Edit.")
        title = f"the network after this edit ({EDITS.parse(spec)[0]})"
        try:
            backbone.network = edit(backbone.network)
            dim = probe_feature_dim(backbone.network, title, facts["in_channels"], facts["image_size"])
        except UserError as error:
            raise SpecError(f"{place(at)}{error}") from error
        if dim != backbone.feature_dim:
            raise SpecError(f"{place(at)}{title} gives {dim} features, before it gave {backbone.feature_dim}.")


def fold_edits(network: nn.Module, edits: Specs | None, facts: Mapping[str, Any]) -> list[Spec]:
    """Make ordinary layers of what edits have made for training alone, in place; the specs of those that stay."""
    return [spec for spec in as_list(edits) if not EDITS.build(spec, "edits", **facts).fold(network)]


def _at(edits: Specs | None, where: str, number: int) -> str:
    return f"{where}[{number}]" if isinstance(edits, list) else where
