"""A task's network that starts as another one ended: its surgery and all of its weights."""

from __future__ import annotations

from typing import Any

from imgrec.compress.surgery import rebuild, surgery_of
from imgrec.errors import UserError
from imgrec.export import read_origin, read_specs
from imgrec.models import BACKBONES, EDITS, HEADS, NECKS, POOLINGS, Classifier, ClassifierSpecs
from imgrec.models.pretrained.loading import load_exactly
from imgrec.registry import Registry
from imgrec.spec_defaults import complete_spec
from imgrec.tasks.compatibility import refuse_other_classes
from imgrec.types import DataFacts

_REGISTRIES: dict[str, Registry[Any]] = {
    "backbone": BACKBONES,
    "head": HEADS,
    "neck": NECKS,
    "pooling": POOLINGS,
    "edits": EDITS,
}
_SOURCES = ("pretrained", "weights")


def check_start(path: str, specs: ClassifierSpecs, where: str = "model.init_from") -> None:
    """Refuse a start of another backbone, neck or head than ours, as far as it can be told without reading weights.

    Raises:
        UserError: it names both; or nothing is there to start from.
    """
    found = read_specs(path, where)
    if found is None:
        return
    ours, theirs = specs.to_dict(), found.to_dict()
    for key in sorted((ours.keys() | theirs.keys()) - {"normalize", "init"}):
        if _plain(key, ours.get(key)) != _plain(key, theirs.get(key)):
            held = f"the {key} {theirs[key]!r}" if key in theirs else f"no {key}"
            raise UserError(
                f"{where}: {path} holds a classifier with {held}, model.{key} is {ours.get(key)!r}: they must "
                "be the same, because all of it is taken over"
            )


def start_from(model: Classifier, path: str, facts: DataFacts, where: str = "model.init_from") -> Classifier:
    """Give ``model``, as its specs build it, the surgery and the weights of the classifier at ``path``.

    Mean and standard deviation of the normalization come from there, too.

    Raises:
        UserError: it was trained on other classes or channels, or its tensors do not fit.
    """
    origin = read_origin(path, where)
    refuse_other_classes(origin.facts, facts, f"{where}: {path}")
    taken: Any = rebuild(model, surgery_of(origin.classifier))
    load_exactly(taken, origin.classifier.state_dict(), f"{where}: the weights of {path}")
    found: Classifier = taken
    return found


def _plain(key: str, specs: Any) -> Any:
    """Return specs in a form in which those of the same part are equal, with defaults given or not."""
    if isinstance(specs, list):
        return [_plain(key, each) for each in specs]
    if specs is None:
        return []
    if key in _REGISTRIES:
        specs = complete_spec(_REGISTRIES[key], specs, imports=False)
    name, given = (specs, {}) if isinstance(specs, str) else (specs["name"], {**specs})
    if key == "backbone" and "/" not in name:
        name = name.partition(".")[0]  # timm's tags name weights
    return [(name, {k: v for k, v in given.items() if k not in ("name", *_SOURCES)})]
