"""What the networks of a bench say of their run's images: accuracy, calibration, and agreement with a reference."""

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
from imgrec.runs.data import data_key, data_of
from imgrec.runs.folder import RunFolder
from imgrec.runs.predictions import Predictions
from imgrec.stats.intervals import wilson_interval
from imgrec.stats.paired import paired_bootstrap
from imgrec.types import Batch, DataFacts
from imgrec.utils.seeding import position_seed

Split = Literal["val", "test"]


@dataclass(frozen=True)
class Evaluated:
    """What a network said of the images, where it said something, and what is to be known of it."""

    predictions: Predictions | None = None
    note: str = ""


Ask = Callable[[Path, Path], Any]
"""Has a network name the images of a .npy file and write their logits into another."""

_CHUNK = 64  # images that are read and handed over at once


def evaluate_candidates(
    candidates: Sequence[Candidate],
    asks: Sequence[Ask | None],
    split: Split,
    images: int | None,
    work: Path,
    say: Callable[[str], None],
) -> list[Evaluated]:
    """What each candidate says of the images of its run, which are read once for all that share them.

    A network without a run of its own is given the first run's images, where it was built for the same classes and
    preprocessing. Where the images are not at hand, a run's own network is judged by the predictions in its folder.

    Args:
        candidates: the networks.
        asks: how each is asked; ``None`` for one that cannot be.
        split: ``val`` or ``test``.
        images: how many at most, chosen by their ids; 0 for none.
        work: a folder for what is handed over.
        say: is told what happens now.
    """
    found = [Evaluated()] * len(candidates)
    if images == 0:
        return found
    first = next((each.run for each in candidates if each.run is not None), None)
    groups: dict[str, tuple[RunFolder, list[int]]] = {}
    for place, each in enumerate(candidates):
        run = each.run
        if run is None and each.facts is not None and first is not None and _alike(each, candidates, first):
            run = first
        if run is None:
            found[place] = Evaluated(note=_why_no_images(each))
        else:
            groups.setdefault(data_key(run), (run, []))[1].append(place)
    for run, places in groups.values():
        try:
            _evaluate_group(run, places, asks, split, images, work, say, found)
        except UserError as error:
            for place in places:
                recorded = _recorded(candidates[place], split, images)
                what = "no accuracy" if recorded is None else "accuracy as the run recorded it"
                found[place] = Evaluated(recorded, f"{what}: {error}")
    return found


def _alike(candidate: Candidate, candidates: Sequence[Candidate], run: RunFolder) -> bool:
    facts = next((each.facts for each in candidates if each.run is run), None)
    return facts is not None and candidate.facts is not None and _images_of(facts) == _images_of(candidate.facts)


def _images_of(facts: DataFacts) -> tuple[Any, ...]:
    return (facts.class_names, facts.image_size, facts.channels, facts.eval_transforms, facts.multi_label)


def _why_no_images(candidate: Candidate) -> str:
    if candidate.facts is None:
        return "no accuracy: the file does not say what it was trained on"
    return "no accuracy: it lies in no run, and no given run has images for it"


def _recorded(candidate: Candidate, split: Split, images: int | None) -> Predictions | None:
    if not candidate.own or candidate.run is None or not candidate.run.has_predictions(split):
        return None
    if candidate.run.summary.get("export") is not None:  # of a run that was quantized, they are the export's
        return None
    return chosen(candidate.run.predictions(split), images)


def chosen(predictions: Predictions, images: int | None) -> Predictions:
    """The predictions on the images that a bench of so many would take."""
    keep = choose(predictions.ids, images)
    ids = [predictions.ids[i] for i in keep]
    return Predictions(ids, predictions.targets[keep], predictions.logits[keep], predictions.class_names)


def choose(ids: Sequence[str], images: int | None) -> list[int]:
    """The places of at most so many ids: those whose hash is lowest, so that every run takes the same images.

    >>> choose(["a", "b", "c"], None), len(choose(["a", "b", "c"], 2))
    ([0, 1, 2], 2)
    """
    if images is None or images >= len(ids):
        return list(range(len(ids)))
    return sorted(sorted(range(len(ids)), key=lambda i: (position_seed(ids[i]), ids[i]))[:images])


def _evaluate_group(
    run: RunFolder,
    places: Sequence[int],
    asks: Sequence[Ask | None],
    split: Split,
    images: int | None,
    work: Path,
    say: Callable[[str], None],
    found: list[Evaluated],
) -> None:
    data = data_of(run)
    if data.facts.multi_label:
        raise UserError("its images have several classes or none")
    said: dict[int, list[NDArray[np.float32]]] = {place: [] for place in places if asks[place] is not None}
    found_ids: list[str] = []
    targets: list[NDArray[np.int64]] = []
    handed, answered = work / "images.npy", work / "logits.npy"
    for batch, total in _batches(data, split, images):
        say(f"evaluating, {len(found_ids)} of {total} images")
        found_ids += batch.ids
        targets.append(batch.targets.numpy())
        np.save(handed, batch.images.numpy(), allow_pickle=False)
        for place in list(said):
            ask = asks[place]
            assert ask is not None
            try:
                ask(handed, answered)
                said[place].append(np.load(answered, allow_pickle=False))
            except MeasurementError as error:
                found[place] = Evaluated(note=f"no accuracy: {error}")
                del said[place]
    if not found_ids:
        raise UserError("none of its images can be read")
    for place, logits in said.items():
        try:
            said_of_all = np.concatenate(logits)
            names = data.facts.class_names
            found[place] = Evaluated(Predictions(found_ids, np.concatenate(targets), said_of_all, names))
        except ValueError as error:  # another number of classes than the data has
            found[place] = Evaluated(note=f"no accuracy: {error}")


def _batches(data: Any, split: Split, images: int | None) -> Iterator[tuple[Batch, int]]:
    """The chosen images of a split, those that can be read, and how many were chosen."""
    loader = data.val_dataloader() if split == "val" else data.test_dataloader()
    dataset = loader.dataset
    rows, names = dataset.rows, dataset.source.ids
    places = choose([names[row] for row in rows.tolist()], images)
    for start in range(0, len(places), _CHUNK):
        batch: Batch = dataset.__getitems__(places[start : start + _CHUNK])
        if len(batch):
            yield batch, len(places)


def reference_of(
    candidates: Sequence[Candidate], evaluated: Sequence[Evaluated], split: Split, images: int | None
) -> tuple[str | None, Predictions | None]:
    """What the rows are compared with: its name where it is no row itself, and what it said.

    That is the first row; but where the first is an export without its run's own network before it, or a run that was
    made from another one that is not given, it is what that run recorded.
    """
    first = candidates[0]
    given = {each.run.path.resolve() for each in candidates if each.run is not None and each.own}
    dense = None
    if first.run is not None and not first.own and first.run.path.resolve() not in given:
        dense = first.run
    elif first.run is not None and (parent := first.run.parent) is not None and parent not in given:
        dense = RunFolder(parent)
    if dense is not None and images != 0 and dense.has_predictions(split):
        return f"{dense.experiment}, as it was recorded", chosen(dense.predictions(split), images)
    return None, next((each.predictions for each in evaluated if each.predictions is not None), None)


def scored(row: BenchRow, evaluated: Evaluated, reference: Predictions | None, split: Split) -> BenchRow:
    """The row with what is to be said of its network's predictions, compared with the reference's."""
    row, said = _noted(row, evaluated.note), evaluated.predictions
    if said is None:
        return row
    finite, correct = said.finite, said.correct
    low, high = wilson_interval(int(correct.sum()), len(correct))
    row = replace(row, split=split, images=len(said), accuracy=float(correct.mean()), low=low, high=high)
    if finite.all():
        each = per_image(said.logits, said.targets)
        row = replace(row, ece=bin_by_confidence(each.confidence, each.correct).expected_calibration_error)
    else:
        row = _noted(row, f"{int((~finite).sum())} images have logits that are NaN or infinite: they count as wrong")
    if reference is None:
        return row
    if said.class_names != reference.class_names:
        return _noted(row, "not compared: it has other classes than the reference")
    place = {name: i for i, name in enumerate(reference.ids)}
    mine = [i for i, name in enumerate(said.ids) if name in place]
    if not mine:
        return _noted(row, "not compared: it was evaluated on other images than the reference")
    theirs = [place[said.ids[i]] for i in mine]
    right = reference.correct
    below, above = paired_bootstrap(correct[mine], right[theirs])
    row = replace(
        row,
        agreement=float((said.predicted[mine] == reference.predicted[theirs]).mean()),
        difference=float(correct[mine].mean() - right[theirs].mean()),
        difference_low=below,
        difference_high=above,
    )
    shared = "" if len(mine) == len(said) else f"compared on the {len(mine)} images that the reference saw, too"
    return _noted(row, shared)


def _noted(row: BenchRow, note: str) -> BenchRow:
    return replace(row, note="; ".join(filter(None, [row.note, note])))
