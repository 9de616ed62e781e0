"""Suspected label errors, by the predictions of models that were not trained on the images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module

import numpy as np

from imgrec.audit.findings import Finding, Inventory
from imgrec.audit.messages import DECIDE, JudgingModel
from imgrec.data.wrappers.corrections import RELABEL
from imgrec.errors import UserError
from imgrec.runs.predictions import Predictions


def label_findings(inventory: Inventory, predictions: Sequence[Predictions]) -> Iterator[Finding]:
    """Yield suspected label errors with the predicted class, by confident learning.

    The models of the predictions must not be trained on the images. Use the predictions of a run on its validation
    and test images, or the predictions of all folds of a cross-validation. Several predictions of an image are
    averaged. A new label is proposed for training images only. For a validation or test image, the action is
    ``decide``.

    Args:
        inventory: Audited images with their present labels.
        predictions: Predictions of some or all of these images.

    Raises:
        UserError: If cleanlab is not installed, if images have several labels, or if the predictions are of other
            images or classes.

    Source: Northcutt, Jiang, Chuang 2021, "Confident Learning: Estimating Uncertainty in Dataset Labels",
    arXiv:1911.00068, computed by cleanlab.
    """
    try:
        find_label_issues = import_module("cleanlab.filter").find_label_issues
    except ImportError as error:
        raise UserError("The search for label errors requires cleanlab: pip install 'imgrec[clean]'.") from error
    if inventory.source.multi_label:
        raise UserError("--predictions: expected data with one label per image, got data with several labels.")
    names = inventory.source.class_names
    position_of = {inventory.id(position): position for position in range(len(inventory))}
    sums, counts = np.zeros((len(inventory), len(names))), np.zeros(len(inventory), np.int64)
    for predicted in predictions:
        if predicted.class_names != names:
            raise UserError(
                f"--predictions: expected the classes {', '.join(names[:10])}, "
                f"got {', '.join(predicted.class_names[:10])}."
            )
        for name, probabilities in zip(predicted.ids, predicted.probabilities, strict=True):
            position = position_of.get(name)
            if position is not None and np.isfinite(probabilities).all():
                sums[position] += probabilities
                counts[position] += 1
    at = np.flatnonzero(counts)
    if not len(at):
        raise UserError("--predictions: expected predictions of the audited images, got other ids only.")
    probabilities = sums[at] / counts[at, None]
    labels = inventory.labels[at]
    suspected = find_label_issues(labels, probabilities, return_indices_ranked_by="self_confidence", n_jobs=1)
    for i in suspected.tolist():
        other = int(probabilities[i].argmax())
        if other == labels[i]:
            continue
        detail = (
            f"predicted as {names[other]} ({probabilities[i, other]:.1%}, its label {probabilities[i, labels[i]]:.1%})"
        )
        training = inventory.splits[int(at[i])] == "train"  # labels of evaluation data are not set to predictions
        action = f"{RELABEL} {names[other]}" if training else DECIDE
        yield Finding(int(at[i]), "label_error", detail, None, action, float(probabilities[i, other]))


def count_judged(
    inventory: Inventory, predictions: Sequence[Predictions], names: Sequence[str]
) -> tuple[list[JudgingModel], dict[str, int]]:
    """Count the images with a prediction, by model and split, and in total by split.

    Args:
        inventory: Audited images.
        predictions: Predictions of models.
        names: Name of the model of each element of ``predictions``.
    """
    split_of = {inventory.id(position): split for position, split in enumerate(inventory.splits)}
    seen: dict[str, set[str]] = {}
    for name, given in zip(names, predictions, strict=True):
        seen.setdefault(name, set()).update(each for each in given.ids if each in split_of)
    judges = [JudgingModel(name, _by_split(ids, split_of)) for name, ids in seen.items()]
    return judges, _by_split(set().union(*seen.values()), split_of)


def _by_split(ids: set[str], split_of: Mapping[str, str]) -> dict[str, int]:
    counts = Counter(split_of[each] for each in ids)
    return {split: counts[split] for split in ("train", "val", "test") if counts[split]}
