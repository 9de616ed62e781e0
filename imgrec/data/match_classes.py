"""The classes of a labelled set matched by name with the classes of a model."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from imgrec.data.sources.base import Source, SourceView
from imgrec.data.splits.assign import Rows
from imgrec.data.wrappers.class_mapping import OTHERS, ClassMapping
from imgrec.errors import UserError, suggestion

_SHOWN = 10


@dataclass(frozen=True, eq=False)
class MatchedSource:
    """The rows of a source whose class a model has.

    Attributes:
        source: these rows, with the classes of the model.
        left_out: number of images by class, for the classes that the mapping of the run leaves out.
        unknown: number of images by class, for classes that the model lacks.
    """

    source: Source
    left_out: dict[str, int] = field(default_factory=dict)
    unknown: dict[str, int] = field(default_factory=dict)


def match_classes(
    source: Source,
    class_names: Sequence[str],
    mapping: ClassMapping | None = None,
    rows: Rows | None = None,
    skip_unknown: bool = False,
) -> MatchedSource:
    """Match the classes of a source by name with those of a model.

    Names are compared in Unicode's composed form. A name in ``mapping`` is replaced by its new name. A name
    without an entry is a new name already if the model has it.

    Args:
        source: Labelled images, one label each.
        class_names: Classes of the model, in the order of its logits.
        mapping: ``data.classes`` of the run.
        rows: Rows of the source to use. Defaults to all rows.
        skip_unknown: If True, images of unknown classes are left out instead of rejected.

    Raises:
        UserError: If images have several labels, if a class is unknown to the model, or if no image is left.
    """
    if source.multi_label:
        raise UserError("evaluate: expected one label per image, got a source with several labels per image.")
    model = {_composed(name): number for number, name in enumerate(class_names)}
    new_names = [_new_name(_composed(name), model, mapping) for name in source.class_names]
    numbers = np.asarray([-1 if name is None else model.get(name, -2) for name in new_names])
    chosen = np.arange(len(source)) if rows is None else rows
    counts = source.class_counts(chosen)
    left_out, unknown = (
        {name: int(counts[i]) for i, name in enumerate(source.class_names) if numbers[i] == code and counts[i]}
        for code in (-1, -2)
    )
    if unknown and not skip_unknown:
        raise UserError(_refusal(unknown, class_names))
    targets = numbers[source.targets[chosen]]
    kept = chosen[targets >= 0]
    if not len(kept):
        raise UserError(
            f"evaluate: none of {len(chosen):,} images has a class of the model. The set has "
            f"{_listed(source.class_names)}, the model has {_listed(class_names)}."
        )
    return MatchedSource(SourceView(source, kept, targets[targets >= 0], class_names), left_out, unknown)


def _new_name(name: str, model: Mapping[str, int], mapping: ClassMapping | None) -> str | None:
    if mapping is None:
        return name
    if not isinstance(mapping, Mapping):
        return name if name in {_composed(str(each)) for each in mapping} else None
    new = {_composed(str(old)): None if word is None else _composed(str(word)) for old, word in mapping.items()}
    if name in new:
        return new[name]
    return name if name in model else new.get(OTHERS, name)


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _refusal(unknown: Mapping[str, int], class_names: Sequence[str]) -> str:
    parts = []
    for name, count in list(unknown.items())[:_SHOWN]:
        parts.append(f'"{name}" ({count:,} images){suggestion(name, class_names)}')
    more = f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
    return (
        f"evaluate: expected classes of the model, got {len(unknown)} that it lacks: {'; '.join(parts)}{more}. "
        f"The model has {_listed(class_names)}. --skip-unknown leaves these images out."
    )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 2 * _SHOWN} more" if len(names) > 2 * _SHOWN else ""
    return f"{', '.join(names[: 2 * _SHOWN])}{more}"
