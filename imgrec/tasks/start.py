"""A task's network that starts as another one ended: its surgery and all of its weights."""

from __future__ import annotations

from typing import Any

from imgrec.compress.surgery import rebuild, surgery_of
from imgrec.errors import UserError
from imgrec.export import read_origin, read_specs
from imgrec.models import BACKBONES, HEADS, Classifier
from imgrec.models.weights import load_exactly
from imgrec.registry import Spec
from imgrec.tasks.compatibility import refuse_other_classes
from imgrec.types import DataFacts

_SOURCES = ("pretrained", "weights")


def check_start(path: str, backbone: Spec, head: Spec, where: str = "model.init_from") -> None:
    """Refuse a start of another backbone or head than the specs, as far as it can be told without reading weights.

    Raises:
        UserError: it names both; or nothing is there to start from.
    """
    specs = read_specs(path, where)
    if specs is None:
        return
    for key, registry, ours in (("backbone", BACKBONES, backbone), ("head", HEADS, head)):
        if _plain(registry.parse(ours)) != _plain(registry.parse(specs[key])):
            raise UserError(
                f"{where}: {path} holds a classifier with the {key} {specs[key]!r}, model.{key} is {ours!r}: they must "
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


def _plain(parsed: tuple[str, dict[str, Any]]) -> tuple[str, dict[str, Any]]:
    name, given = parsed
    architecture = name if "/" in name else name.partition(".")[0]  # timm's tags name weights
    return (name if name in HEADS else architecture), {k: v for k, v in given.items() if k not in _SOURCES}
