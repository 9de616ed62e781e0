"""What is refused before anything is changed: data of other classes, a checkpoint of another architecture."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from imgrec.errors import UserError
from imgrec.types import DataFacts


def refuse_other_classes(ours: DataFacts, theirs: DataFacts, who: str) -> None:
    """Raise UserError where two sets of classes, or channels, differ."""
    if ours.class_names != theirs.class_names:
        raise UserError(
            f"{who} was trained on {_classes(ours)}, the data has {_classes(theirs)}: "
            "they must be the same classes in the same order"
        )
    if ours.channels != theirs.channels:
        raise UserError(f"{who} takes images of {ours.channels} channel(s), the data has {theirs.channels}")


def _classes(facts: DataFacts, at_most: int = 5) -> str:
    shown = ", ".join(facts.class_names[:at_most]) + (", ..." if facts.num_classes > at_most else "")
    return f"{facts.num_classes} classes ({shown})"


def refuse_other_architecture(theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> None:
    """Raise UserError where a checkpoint's parameters are not this model's, by name or by shape."""
    shapes = {k: tuple(v.shape) for k, v in theirs.items()}
    missing, unexpected = sorted(ours.keys() - shapes.keys()), sorted(shapes.keys() - ours.keys())
    other = sorted(k for k in ours.keys() & shapes.keys() if tuple(ours[k].shape) != shapes[k])
    if not (missing or unexpected or other):
        return
    found = []
    if other:
        key = other[0]
        found.append(f"{len(other)} of another shape (first: {key} {shapes[key]}, here {tuple(ours[key].shape)})")
    if missing:
        found.append(f"{len(missing)} missing (first: {missing[0]})")
    if unexpected:
        found.append(f"{len(unexpected)} unknown here (first: {unexpected[0]})")
    if all(name.startswith(("loss.", "regularizers.")) for name in (*missing, *unexpected, *other)):
        raise UserError(
            "the checkpoint was trained with another loss or other regularizers: of what they learn, "
            f"{'; '.join(found)}. To go on from its network alone, name it in model.init_from."
        )
    raise UserError(f"the checkpoint is of another architecture: of its {len(shapes)} tensors, {'; '.join(found)}")
