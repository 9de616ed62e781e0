"""Base class and registry of edits, and their check, application and folding."""

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
    """A change of the layers of a network, made from plain data before training.

    Applied again to the same network, an edit makes the same layers. A subclass has the constructor argument ``scope``
    and overrides :meth:`__call__`. It may have the parameters ``in_channels`` and ``image_size``, facts of the data, to
    probe the network. Layers that remain keep their weights.

    Args:
        scope: Names or patterns of modules. See :func:`imgrec.models.utils.patterns.scope_names`. Defaults to the whole
            network.

    >>> class RemoveBias(Edit):
    ...     def __call__(self, network: nn.Module) -> nn.Module:
    ...         network.register_parameter("bias", None)
    ...         return network
    >>> RemoveBias()(nn.Linear(1, 1))
    Linear(in_features=1, out_features=1, bias=False)
    """

    def __init__(self, scope: Scope = None) -> None:
        self.scope = scope

    @abstractmethod
    def __call__(self, network: nn.Module) -> nn.Module:
        """Return the changed network. Layers are changed in place, or the network is wrapped.

        Raises:
            UserError: If the network has no layer of the kind in the scope, or if a layer cannot be changed.
        """

    def fold(self, network: nn.Module) -> bool:
        """Replace layers that only training requires by ordinary layers, in place.

        Returns:
            ``True`` if the edit was removed in this way, so that the shared network does not contain it.
        """
        return False


EDITS: Registry[Edit] = Registry("edit", "edits", specific=("size", "to"))
"""Edits by name."""


def check_edits(edits: Specs | None, where: str, facts: Collection[str]) -> None:
    """Raise the errors of :func:`apply_edits` that follow from the specs alone."""
    for i, spec in enumerate(as_list(edits)):
        EDITS.check(spec, _at(edits, where, i), facts)


def apply_edits(backbone: Backbone, edits: Specs | None, facts: Mapping[str, Any], where: str = "edits") -> None:
    """Apply edits to the network of a backbone, in place and in order.

    Args:
        backbone: Backbone whose ``network`` is changed.
        edits: Specs of :data:`EDITS`.
        facts: Facts of the data for the constructors, ``in_channels`` and ``image_size`` among them.
        where: Key in the config for messages.

    Raises:
        SpecError: If an edit cannot be applied, or if the network does not accept the images afterwards.
    """
    for i, spec in enumerate(as_list(edits)):
        at = _at(edits, where, i)
        edit = EDITS.build(spec, at, **facts)
        if not isinstance(edit, Edit):
            raise SpecError(f"{place(at)}expected an imgrec.models.Edit, got {type(edit).__name__} from {spec!r}.")
        title = f"the network after this edit ({EDITS.parse(spec)[0]})"
        try:
            backbone.network = edit(backbone.network)
            dim = probe_feature_dim(backbone.network, title, facts["in_channels"], facts["image_size"])
        except UserError as error:
            raise SpecError(f"{place(at)}{error}") from error
        if dim != backbone.feature_dim:
            raise SpecError(f"{place(at)}{title}: expected {backbone.feature_dim} features as before, got {dim}.")


def fold_edits(network: nn.Module, edits: Specs | None, facts: Mapping[str, Any]) -> list[Spec]:
    """Fold the edits that only training requires, in place, and return the specs of the others."""
    return [spec for spec in as_list(edits) if not EDITS.build(spec, "edits", **facts).fold(network)]


def _at(edits: Specs | None, where: str, number: int) -> str:
    return f"{where}[{number}]" if isinstance(edits, list) else where
