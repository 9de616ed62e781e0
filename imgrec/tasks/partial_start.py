"""A task's network that starts with what fits of another one: of other classes, another size, or other layers."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from lightning_utilities.core.rank_zero import rank_zero_only

from imgrec.errors import UserError, suggestion
from imgrec.export.state_dict import locate_tensors, read_tensors
from imgrec.models import Classifier, Normalize
from imgrec.models.pretrained.partial import Taken, take_over
from imgrec.models.utils.patterns import Scope, in_scope, scope_names
from imgrec.types import DataFacts

logger = logging.getLogger(__name__)
inform = rank_zero_only(logger.info)

_KEYS = ("path", "partial", "scope", "rename")


@dataclass(frozen=True)
class Start:
    """Where training starts from, as ``model.init_from`` says it.

    Args:
        path: what holds the weights.
        partial: whether what fits is enough; otherwise it has to be the same classifier, and all of it is taken over.
        scope: what of this network is to be taken over, as parameter names or patterns.
        rename: what names there begin with, and what they are to begin with here.
    """

    path: str
    partial: bool = False
    scope: Scope = None
    rename: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, given: str | Mapping[str, Any], where: str = "model.init_from") -> Self:
        """From a path alone, or from a mapping.

        Raises:
            UserError: a key that is unknown, a value that cannot be; a scope or new names without ``partial: true``.

        >>> Start.of({"path": "runs/a/1", "partial": True, "scope": "backbone"}).scope
        'backbone'
        """
        if isinstance(given, str):
            return cls(given)
        for key in given:
            if key not in _KEYS:
                raise UserError(
                    f'{where}: there is no key "{key}".{suggestion(str(key), _KEYS)} Accepted: {", ".join(_KEYS)}.'
                )
        path, partial, scope, rename = (given.get(key) for key in _KEYS)
        if not isinstance(path, str):
            raise UserError(f"{where}.path: expected a path, got {path!r}.")
        if not isinstance(partial, bool | None):
            raise UserError(f"{where}.partial: expected true or false, got {partial!r}.")
        patterns = [scope] if isinstance(scope, str | None) else scope
        if not isinstance(patterns, list) or not patterns or not all(isinstance(p, str | None) for p in patterns):
            raise UserError(f"{where}.scope: expected a pattern of names or a list of such, got {scope!r}.")
        if not _are_words(rename):
            raise UserError(f"{where}.rename: expected a mapping of beginnings of names, got {rename!r}.")
        for key, value in {"scope": scope, "rename": rename}.items():
            if value and not partial:
                raise UserError(f"{where}.{key} is for `partial: true`; without it the whole classifier is taken over.")
        return cls(path, bool(partial), scope, dict(rename or {}))

    def check(self, where: str = "model.init_from") -> None:
        """Raise :class:`UserError` where nothing is at the path."""
        locate_tensors(self.path, where)

    def take(self, model: Classifier, facts: DataFacts, normalize: Normalize, where: str = "model.init_from") -> Taken:
        """Give ``model``, as its specs build it, what fits of the tensors at the path; say so in the log.

        A head for other classes, or for classes that nobody knows, is not taken over, even where it has the right
        shape. Mean and standard deviation of the normalization are, unless the config says which they are.

        Args:
            model: is changed.
            facts: the classes of the data.
            normalize: what the config says of the normalization.
            where: the place in the config, for messages.

        Raises:
            UserError: nothing is there, or none of it fits; a scope that matches nothing.
        """
        chosen = set(scope_names(model, self.scope, f"{where}.scope"))
        parameters = {name for name, _ in model.named_parameters()}
        settings = {"mean", "std"}

        def wanted(name: str) -> bool:
            if name in settings:
                return normalize == "auto"
            return name in chosen if name in parameters else in_scope(name, self.scope)

        given = read_tensors(self.path, where, self.rename)
        others = given.class_names != facts.class_names
        taken = take_over(
            model, given.state, f"{where}: {self.path}", wanted, lambda name: others and name.startswith("head.")
        )
        inform("%s", taken)
        return taken


def _are_words(rename: object) -> bool:
    if rename is None:
        return True
    return isinstance(rename, Mapping) and all(isinstance(word, str) for pair in rename.items() for word in pair)
