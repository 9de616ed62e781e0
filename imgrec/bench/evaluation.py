"""Evaluation of the networks of a benchmark: accuracy, calibration, and agreement with a reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from imgrec.bench.candidates import Candidate
from imgrec.bench.process import MeasurementError
from imgrec.errors import UserError
from imgrec.metrics.calibration import bin_by_confidence
from imgrec.metrics.per_image import per_image
from imgrec.reports.bench.results import BenchRow
from imgrec.runs.data import data_key, load_run_data
from imgrec.runs.folder import RunFolder
from imgrec.runs.predictions import Predictions
from imgrec.stats.intervals import wilson_interval
from imgrec.stats.paired import paired_bootstrap
from imgrec.types import Batch, DataFacts
from imgrec.utils.seeding import position_seed

Split = Literal["val", "test"]


@dataclass(frozen=True)
class EvaluatedCandidate:
    """Predictions of a network.

    Attributes:
        predictions: Predictions on the images, or ``None`` if there are none.
        note: Remark for the row, for example the reason why there are none.
    """

    predictions: Predictions | None = None
    note: str = ""


Predict = Callable[[Path, Path], Any]
"""Function that computes the logits of the images in a .npy file and writes them to another .npy file."""

_CHUNK = 64  # images that are read and passed to the processes at once


def evaluate_candidates(
    candidates: Sequence[Candidate],
    predicts: Sequence[Predict | None],
    split: Split,
    images: int | None,
    work: Path,
    report: Callable[[str], None],
) -> list[EvaluatedCandidate]:
    """Predict the images of the run of each candidate. Images that several candidates share are read once.

    A network without a run receives the images of the first run if it was built for the same classes and
    preprocessing. If the images are not available, the network of a run is evaluated by the predictions in its folder.

    Args:
        candidates: Networks in runtimes.
        predicts: Function that computes the logits of each candidate, or ``None`` if it is not open.
        split: ``val`` or ``test``.
        images: Largest number of images, selected by their ids. 0 skips the evaluation, ``None`` selects all.
        work: Folder for files that are passed to the processes.
        report: Function that receives the current step as text.
    """
    found = [EvaluatedCandidate()] * len(candidates)
    if images == 0:
        return found
    first = next((each.run for each in candidates if each.run is not None), None)
    groups: dict[str, tuple[RunFolder, list[int]]] = {}
    for place, each in enumerate(candidates):
        run = each.run
        if run is None and each.facts is not None and first is not None and _alike(each, candidates, first):
            run = first
        if run is None:
            found[place] = EvaluatedCandidate(note=_why_no_images(each))
        else:
            groups.setdefault(data_key(run), (run, []))[1].append(place)
    for run, places in groups.values():
        try:
            _evaluate_group(run, places, predicts, split, images, work, report, found)
        except UserError as error:
            for place in places:
                recorded = _recorded(candidates[place], split, images)
                result = "no accuracy" if recorded is None else "accuracy as the run recorded it"
                found[place] = EvaluatedCandidate(recorded, f"{result}: {error}")
    return found


def _alike(candidate: Candidate, candidates: Sequence[Candidate], run: RunFolder) -> bool:
    facts = next((each.facts for each in candidates if each.run is run), None)
    return facts is not None and candidate.facts is not None and _images_of(facts) == _images_of(candidate.facts)


def _images_of(facts: DataFacts) -> tuple[Any, ...]:
    return (facts.class_names, facts.image_size, facts.channels, facts.eval_transforms, facts.multi_label)


def _why_no_images(candidate: Candidate) -> str:
    if candidate.facts is None:
        return "no accuracy: the file does not contain its classes and preprocessing"
    return "no accuracy: it belongs to no run, and no other source has images for it"


def _recorded(candidate: Candidate, split: Split, images: int | None) -> Predictions | None:
    if not candidate.own or candidate.run is None or not candidate.run.has_predictions(split):
        return None
    if candidate.run.summary.get("export") is not None:  # a quantized run contains the predictions of its export
        return None
    return select_predictions(candidate.run.predictions(split), images)


def select_predictions(predictions: Predictions, images: int | None) -> Predictions:
    """Return the predictions on the images that :func:`select_images` selects."""
    keep = select_images(predictions.ids, images)
    ids = [predictions.ids[i] for i in keep]
    return Predictions(ids, predictions.targets[keep], predictions.logits[keep], predictions.class_names)


def select_images(ids: Sequence[str], images: int | None) -> list[int]:
    """Return the positions of the ids with the lowest hash, so that every run selects the same images.

    Args:
        ids: Ids of the images.
        images: Largest number of positions. ``None`` selects all.

    Example:
        >>> select_images(["a", "b", "c"], None), len(select_images(["a", "b", "c"], 2))
        ([0, 1, 2], 2)
    """
    if images is None or images >= len(ids):
        return list(range(len(ids)))
    return sorted(sorted(range(len(ids)), key=lambda i: (position_seed(ids[i]), ids[i]))[:images])


def _evaluate_group(
    run: RunFolder,
    places: Sequence[int],
    predicts: Sequence[Predict | None],
    split: Split,
    images: int | None,
    work: Path,
    report: Callable[[str], None],
    found: list[EvaluatedCandidate],
) -> None:
    data = load_run_data(run)
    if data.facts.multi_label:
        raise UserError("multi-label images are not supported")
    logits: dict[int, list[NDArray[np.float32]]] = {place: [] for place in places if predicts[place] is not None}
    found_ids: list[str] = []
    targets: list[NDArray[np.int64]] = []
    images_file, logits_file = work / "images.npy", work / "logits.npy"
    for batch, total in _batches(data, split, images):
        report(f"evaluating, {len(found_ids)} of {total} images")
        found_ids += batch.ids
        targets.append(batch.targets.numpy())
        np.save(images_file, batch.images.numpy(), allow_pickle=False)
        for place in list(logits):
            predict = predicts[place]
            assert predict is not None
            try:
                predict(images_file, logits_file)
                logits[place].append(np.load(logits_file, allow_pickle=False))
            except MeasurementError as error:
                found[place] = EvaluatedCandidate(note=f"no accuracy: {error}")
                del logits[place]
    if not found_ids:
        raise UserError("no image of the split can be read")
    for place, parts in logits.items():
        try:
            names = data.facts.class_names
            predictions = Predictions(found_ids, np.concatenate(targets), np.concatenate(parts), names)
            found[place] = EvaluatedCandidate(predictions)
        except ValueError as error:  # the number of classes differs from that of the data
            found[place] = EvaluatedCandidate(note=f"no accuracy: {error}")


def _batches(data: Any, split: Split, images: int | None) -> Iterator[tuple[Batch, int]]:
    """Yield batches of the readable selected images of a split, each with the number of selected images."""
    loader = data.val_dataloader() if split == "val" else data.test_dataloader()
    dataset = loader.dataset
    rows, names = dataset.rows, dataset.source.ids
    places = select_images([names[row] for row in rows.tolist()], images)
    for start in range(0, len(places), _CHUNK):
        batch: Batch = dataset.__getitems__(places[start : start + _CHUNK])
        if len(batch):
            yield batch, len(places)


def find_reference(
    candidates: Sequence[Candidate], evaluated: Sequence[EvaluatedCandidate], split: Split, images: int | None
) -> tuple[str | None, Predictions | None]:
    """Return the name and the predictions of the reference of all rows. The name is ``None`` if it is a row itself.

    The reference is the first row, with two exceptions. If the first row is an export and the network of its run is
    not given, the reference is that run. If the first row is a run made from a run that is not given, the reference is
    that parent run. The predictions are then those that the run recorded.
    """
    first = candidates[0]
    given = {each.run.path.resolve() for each in candidates if each.run is not None and each.own}
    dense = None
    if first.run is not None and not first.own and first.run.path.resolve() not in given:
        dense = first.run
    elif first.run is not None and (parent := first.run.parent) is not None and parent not in given:
        dense = RunFolder(parent)
    if dense is not None and images != 0 and dense.has_predictions(split):
        return f"{dense.experiment}, as it was recorded", select_predictions(dense.predictions(split), images)
    return None, next((each.predictions for each in evaluated if each.predictions is not None), None)


def add_scores(row: BenchRow, evaluated: EvaluatedCandidate, reference: Predictions | None, split: Split) -> BenchRow:
    """Return a row with the accuracy and calibration of its network and the comparison with the reference."""
    row, predictions = _add_note(row, evaluated.note), evaluated.predictions
    if predictions is None:
        return row
    finite, correct = predictions.finite, predictions.correct
    low, high = wilson_interval(int(correct.sum()), len(correct))
    row = replace(row, split=split, images=len(predictions), accuracy=float(correct.mean()), low=low, high=high)
    if finite.all():
        each = per_image(predictions.logits, predictions.targets)
        row = replace(row, ece=bin_by_confidence(each.confidence, each.correct).expected_calibration_error)
    else:
        row = _add_note(row, f"{int((~finite).sum())} images have logits that are NaN or infinite: they count as wrong")
    if reference is None:
        return row
    if predictions.class_names != reference.class_names:
        return _add_note(row, "not compared: it has other classes than the reference")
    return _compare(row, predictions, reference)


def _compare(row: BenchRow, predictions: Predictions, reference: Predictions) -> BenchRow:
    position = {name: i for i, name in enumerate(reference.ids)}
    mine = [i for i, name in enumerate(predictions.ids) if name in position]
    if not mine:
        return _add_note(row, "not compared: it was evaluated on other images than the reference")
    theirs = [position[predictions.ids[i]] for i in mine]
    own, right = predictions.correct[mine], reference.correct[theirs]
    below, above = paired_bootstrap(own, right)
    row = replace(
        row,
        agreement=float((predictions.predicted[mine] == reference.predicted[theirs]).mean()),
        difference=float(own.mean() - right.mean()),
        difference_low=below,
        difference_high=above,
    )
    is_whole = len(mine) == len(predictions)
    return _add_note(row, "" if is_whole else f"compared on the {len(mine)} images that it shares with the reference")


def _add_note(row: BenchRow, note: str) -> BenchRow:
    return replace(row, note="; ".join(filter(None, [row.note, note])))
