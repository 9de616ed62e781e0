"""The argument ``model.init_from``: a model that starts with the weights of another one, or with those that match."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from lightning_utilities.core.rank_zero import rank_zero_only

from imgrec.compress.surgery import rebuild, surgery_of
from imgrec.errors import UserError, suggestion
from imgrec.export import read_origin, read_specs
from imgrec.export.state_dict import locate_tensors, read_tensors
from imgrec.models import BACKBONES, EDITS, HEADS, NECKS, POOLINGS, Classifier, ClassifierSpecs, Normalize
from imgrec.models.pretrained.loading import load_exactly
from imgrec.models.pretrained.partial import PartialLoad, load_partially
from imgrec.models.utils.patterns import Scope, in_scope, scope_names
from imgrec.registry import Registry
from imgrec.spec_defaults import complete_spec
from imgrec.tasks.compatibility import check_same_classes
from imgrec.types import DataFacts

logger = logging.getLogger(__name__)
inform = rank_zero_only(logger.info)

_KEYS = ("path", "partial", "scope", "rename")
_REGISTRIES: dict[str, Registry[Any]] = {
    "backbone": BACKBONES,
    "head": HEADS,
    "neck": NECKS,
    "pooling": POOLINGS,
    "edits": EDITS,
}
_WEIGHT_KEYS = ("pretrained", "weights")


@dataclass(frozen=True)
class InitialWeights:
    """Source of the initial weights of a model, the parsed argument ``model.init_from``.

    Args:
        path: Run folder, checkpoint, model folder or file with weights.
        partial: True to load the tensors that match. Defaults to False: the classifier must be the same, and all of
            its tensors are loaded.
        scope: Parameter names or patterns of this model to load. Defaults to all.
        rename: Replacements of the prefixes of names in the source. Defaults to none.
    """

    path: str
    partial: bool = False
    scope: Scope = None
    rename: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, value: str | Mapping[str, Any], where: str = "model.init_from") -> Self:
        """Parse a path or a mapping.

        Raises:
            UserError: If a key is unknown, if a value has the wrong type, or if ``scope`` or ``rename`` is set without
                ``partial: true``.

        Example:
            >>> InitialWeights.parse({"path": "runs/a/1", "partial": True, "scope": "backbone"}).scope
            'backbone'
        """
        if isinstance(value, str):
            return cls(value)
        for key in value:
            if key not in _KEYS:
                raise UserError(
                    f'{where}: there is no key "{key}".{suggestion(str(key), _KEYS)} Accepted: {", ".join(_KEYS)}.'
                )
        path, partial, scope, rename = (value.get(key) for key in _KEYS)
        if not isinstance(path, str):
            raise UserError(f"{where}.path: expected a path, got {path!r}.")
        if not isinstance(partial, bool | None):
            raise UserError(f"{where}.partial: expected true or false, got {partial!r}.")
        patterns = [scope] if isinstance(scope, str | None) else scope
        if not isinstance(patterns, list) or not patterns or not all(isinstance(p, str | None) for p in patterns):
            raise UserError(f"{where}.scope: expected a pattern of names or a list of patterns, got {scope!r}.")
        if not _is_mapping_of_text(rename):
            raise UserError(f"{where}.rename: expected a mapping of prefixes of names, got {rename!r}.")
        for key, selection in {"scope": scope, "rename": rename}.items():
            if selection and not partial:
                raise UserError(
                    f"{where}.{key}: expected `partial: true`, without which the whole classifier is loaded."
                )
        return cls(path, bool(partial), scope, dict(rename or {}))

    def check(self, specs: ClassifierSpecs, where: str = "model.init_from") -> None:
        """Check the source without reading its weights.

        Args:
            specs: Specs of the model.
            where: Location in the config, for messages.

        Raises:
            UserError: If there is nothing at the path, or if the classifier is another one and ``partial`` is False.
        """
        if self.partial:
            locate_tensors(self.path, where)
            return
        found = read_specs(self.path, where)
        if found is None:
            return
        ours, theirs = specs.to_dict(), found.to_dict()
        for key in sorted((ours.keys() | theirs.keys()) - {"normalize", "init"}):
            if _normalized(key, ours.get(key)) != _normalized(key, theirs.get(key)):
                held = f"the {key} {theirs[key]!r}" if key in theirs else f"no {key}"
                raise UserError(
                    f"{where}: {self.path} holds a classifier with {held}, model.{key} is {ours.get(key)!r}. "
                    "Use the same architecture, or set `partial: true`."
                )

    def load_classifier(self, model: Classifier, facts: DataFacts, where: str = "model.init_from") -> Classifier:
        """Return ``model`` with the surgery, the weights and the normalization of the source.

        Args:
            model: Model as its specs build it.
            facts: Facts of the data.
            where: Location in the config, for messages.

        Raises:
            UserError: If the source was trained on other classes or channels, or if its tensors do not match.
        """
        origin = read_origin(self.path, where)
        check_same_classes(origin.facts, facts, f"{where}: {self.path}")
        rebuilt: Any = rebuild(model, surgery_of(origin.classifier))
        load_exactly(rebuilt, origin.classifier.state_dict(), f"{where}: the weights of {self.path}")
        found: Classifier = rebuilt
        return found

    def load_matching(
        self, model: Classifier, facts: DataFacts, normalize: Normalize, where: str = "model.init_from"
    ) -> PartialLoad:
        """Load the tensors of the source that match ``model``, in place, and log them.

        A head for other or unknown classes is not loaded, even if it has the right shape. The normalization is loaded
        unless the config sets it.

        Args:
            model: Model as its specs build it.
            facts: Facts of the data.
            normalize: Normalization in the config.
            where: Location in the config, for messages.

        Raises:
            UserError: If there is nothing at the path, if no tensor matches, or if the scope matches no parameter.
        """
        selected = set(scope_names(model, self.scope, f"{where}.scope"))
        parameters = {name for name, _ in model.named_parameters()}

        def is_selected(name: str) -> bool:
            if name in {"mean", "std"}:
                return normalize == "auto"
            return name in selected if name in parameters else in_scope(name, self.scope)

        given = read_tensors(self.path, where, self.rename)
        other_classes = given.class_names != facts.class_names
        loaded = load_partially(
            model,
            given.state,
            f"{where}: {self.path}",
            is_selected,
            lambda name: other_classes and name.startswith("head."),
        )
        inform("%s", loaded)
        return loaded


def _is_mapping_of_text(rename: object) -> bool:
    if rename is None:
        return True
    return isinstance(rename, Mapping) and all(isinstance(text, str) for pair in rename.items() for text in pair)


def _normalized(key: str, specs: Any) -> Any:
    """Return specs in a form that is equal for specs of the same part, with or without default arguments."""
    if isinstance(specs, list):
        return [_normalized(key, each) for each in specs]
    if specs is None:
        return []
    if key in _REGISTRIES:
        specs = complete_spec(_REGISTRIES[key], specs, imports=False)
    name, given = (specs, {}) if isinstance(specs, str) else (specs["name"], {**specs})
    if key == "backbone" and "/" not in name:
        name = name.partition(".")[0]  # the tag of a timm name specifies weights
    return [(name, {k: v for k, v in given.items() if k not in ("name", *_WEIGHT_KEYS)})]
