"""Labels that a model which did not train on the images does not believe."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module

import numpy as np

from imgrec.audit.findings import Finding, Inventory
from imgrec.audit.messages import DECIDE, Judge
from imgrec.data.wrappers.corrections import RELABEL
from imgrec.errors import UserError
from imgrec.runs.predictions import Predictions


def label_findings(inventory: Inventory, predictions: Sequence[Predictions]) -> Iterator[Finding]:
    """Suspected label errors, with the class that the model names instead, by confident learning.

    The predictions must be of models that were not trained on the images: those of a run on its validation and test
    images, or those of all folds of a cross-validation. An image with several predictions gets their mean. Only
    training images are proposed for a new label. The label of a validation or test image is for a person to decide.

    Args:
        inventory: the images with the labels they have now.
        predictions: of some or all of these images.

    Raises:
        UserError: cleanlab is not installed; images with several labels each; predictions of other images or classes.

    Source: Northcutt, Jiang, Chuang 2021, "Confident Learning: Estimating Uncertainty in Dataset Labels",
    arXiv:1911.00068; computed by cleanlab.
    """
    try:
        find_label_issues = import_module("cleanlab.filter").find_label_issues
    except ImportError as error:
        raise UserError("suspected label errors need the package cleanlab: pip install 'imgrec[clean]'.") from error
    if inventory.source.multi_label:
        raise UserError("suspected label errors are looked for in data with one label an image; these have several.")
    names = inventory.source.class_names
    position_of = {inventory.id(position): position for position in range(len(inventory))}
    sums, counts = np.zeros((len(inventory), len(names))), np.zeros(len(inventory), np.int64)
    for said in predictions:
        if said.class_names != names:
            raise UserError(
                f"the predictions are of the classes {', '.join(said.class_names[:10])}; the data has "
                f"{', '.join(names[:10])}."
            )
        for name, probabilities in zip(said.ids, said.probabilities, strict=True):
            position = position_of.get(name)
            if position is not None and np.isfinite(probabilities).all():
                sums[position] += probabilities
                counts[position] += 1
    at = np.flatnonzero(counts)
    if not len(at):
        raise UserError("the predictions are of none of these images: their ids are others.")
    probabilities = sums[at] / counts[at, None]
    labels = inventory.labels[at]
    suspected = find_label_issues(labels, probabilities, return_indices_ranked_by="self_confidence", n_jobs=1)
    for i in suspected.tolist():
        other = int(probabilities[i].argmax())
        if other == labels[i]:
            continue
        detail = (
            f"looks like {names[other]} ({probabilities[i, other]:.1%}; {probabilities[i, labels[i]]:.1%} its label)"
        )
        training = inventory.splits[int(at[i])] == "train"  # evaluation data is not changed to what a model predicts
        action = f"{RELABEL} {names[other]}" if training else DECIDE
        yield Finding(int(at[i]), "label_error", detail, None, action, float(probabilities[i, other]))


def judges_of(
    inventory: Inventory, predictions: Sequence[Predictions], names: Sequence[str]
) -> tuple[list[Judge], dict[str, int]]:
    """Return the networks with the number of images by split that each judged, and that any of them judged.

    Args:
        inventory: the images.
        predictions: the predictions of networks.
        names: the name of the network of each.
    """
    split_of = {inventory.id(position): split for position, split in enumerate(inventory.splits)}
    seen: dict[str, set[str]] = {}
    for name, given in zip(names, predictions, strict=True):
        seen.setdefault(name, set()).update(each for each in given.ids if each in split_of)
    judges = [Judge(name, _by_split(ids, split_of)) for name, ids in seen.items()]
    return judges, _by_split(set().union(*seen.values()), split_of)


def _by_split(ids: set[str], split_of: Mapping[str, str]) -> dict[str, int]:
    counts = Counter(split_of[each] for each in ids)
    return {split: counts[split] for split in ("train", "val", "test") if counts[split]}
