"""The evaluation of a trained model on any labelled set, as a whole."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import SequentialSampler

from imgrec.augment import build_transforms
from imgrec.augment.test_time import Average
from imgrec.data.bad_images import usable_cores
from imgrec.data.decoding.image import BadImage
from imgrec.data.labelled_set import build_whole_source, rows_in_split, source_spec
from imgrec.data.loading import BatchLoader, EvaluationSet
from imgrec.data.match_classes import match_classes
from imgrec.data.sources.base import Source
from imgrec.data.splits.assign import Splits
from imgrec.data.splits.table import SplitTable
from imgrec.engine.evaluated_model import EvaluatedModel, open_model
from imgrec.errors import UserError
from imgrec.registry import Specs
from imgrec.reports.evaluation_page import evaluation_page
from imgrec.runs.data import images_of
from imgrec.runs.evaluations import (
    LEVEL,
    Evaluation,
    check_name,
    evaluation_folder,
    name_from,
    refuse_other,
    write_evaluation_folder,
)
from imgrec.runs.folder import RunFolder
from imgrec.runs.predictions import Predictions
from imgrec.stats.metric_intervals import metric_intervals
from imgrec.trust import Trust, allow, opening
from imgrec.types import DataFacts
from imgrec.utils.terminal import print

_PROGRESS_SECONDS = 5.0


def evaluate(
    run: RunFolder | str | Path,
    data: str | Path | Mapping[str, Any] | Source,
    *,
    name: str | None = None,
    split: str | None = None,
    tta: Specs | None = None,
    tta_average: Average = "probabilities",
    device: str = "auto",
    batch_size: int = 64,
    num_workers: int | None = None,
    skip_unknown: bool = False,
    overwrite: bool = False,
    out: str | Path | None = None,
    trust: Trust = None,
    say: Callable[[str], None] = lambda text: None,
    show: Callable[[Evaluation], None] = lambda evaluation: None,
) -> Evaluation:
    """Evaluate a trained model on a labelled set: on all of it, whatever splits it has.

    Classes are matched by name, through ``data.classes`` of the run if it has that. The set may lack classes. The
    result of a run folder is written to ``evaluations/<name>/`` in it: predictions.parquet, metrics.json with 95 %
    intervals, source.yaml and report.html. The results of the run itself are not changed.

    Args:
        run: a run folder, a checkpoint, a model folder or an export. Only a run folder is written to.
        data: a folder, a CSV, parquet or tar file, a YAML file with a source, the spec of a source, or a source.
        name: name of the evaluation; by default it is derived from ``data``, ``split`` and ``tta``.
        split: evaluate only the images that the source itself puts into ``train``, ``val`` or ``test``.
        tta: further views of each image; see `imgrec list views`.
        tta_average: mean of the ``probabilities`` or of the ``logits`` of the views.
        device: ``auto`` selects a GPU if there is one.
        batch_size: number of images in one pass, 1 or more.
        num_workers: number of processes that read images; by default up to 8, and none for data in memory.
        skip_unknown: leave images of classes that the model lacks out, and count them, instead of refusing them.
        overwrite: replace an evaluation of that name although its images, weights or views differ.
        out: folder to write to instead.
        trust: names of classes and modules that the model and a YAML file ``data`` may name in addition to the
            registries; ``True`` allows every name. Default: none.
        say: receives a line of progress every five seconds.
        show: receives the evaluation before anything is written.

    Raises:
        UserError: If the model or the data cannot be used, if an evaluation of that name differs, or if the model
            names a class outside the registries that is not trusted.
        WriteError: If the results cannot be written.

    Example::

        found = imgrec.evaluate("runs/digits/quickstart/20261121-143005", "field-images")
        print(found.metrics["acc"], found.intervals["acc"])
    """
    run = run.path if isinstance(run, RunFolder) else run
    if batch_size < 1:
        raise UserError(f"batch_size: expected 1 or more, got {batch_size}.")
    if name is not None:
        check_name(name)
    with opening(str(run), trust):
        model = open_model(run, device, tta, tta_average)
        given = {"source": _described(data)} if isinstance(data, Source) else source_spec(data)
        if not _is_file(data):  # a spec that the caller wrote, and not a file that may come from elsewhere
            allow(given)
        source = data if isinstance(data, Source) else build_whole_source(given["source"], given.get("classes"))
    trained = {} if model.run is None else (model.run.config.get("data") or {}).get("init_args") or {}
    rows = rows_in_split(source, split)
    matched = match_classes(source, model.facts.class_names, trained.get("classes"), rows, skip_unknown)
    everything = np.arange(len(matched.source))
    nothing = np.arange(0)
    table = SplitTable.of(matched.source, Splits(nothing, nothing, everything))
    identity = {"images": table.digest, "weights": model.weights, "tta": _views(tta, tta_average)}
    own = Path(run).expanduser()
    called = name or _default_name(data, given, split, tta)
    folder = Path(out) if out is not None else _folder_in(model, own, called)
    if folder is not None:
        refuse_other(folder, identity, overwrite)
    stored = None if model.run is None else model.run.splits()
    predictions, skipped = _predict(model, matched.source, batch_size, num_workers, say)
    metrics = model.metrics(torch.from_numpy(predictions.logits), torch.from_numpy(predictions.targets))
    found = Evaluation(
        name=called,
        model=(str(own), model.title),
        predictions=predictions,
        metrics={key: float(value) for key, value in metrics.items()},
        intervals=metric_intervals(predictions.logits, predictions.targets, LEVEL),
        source={**given, **({"split": split} if split else {})},
        skipped=skipped,
        left_out=matched.left_out,
        unknown=matched.unknown,
        trained_on=0 if stored is None else len(stored.trained_on(matched.source, everything)),
        identity=identity,
        folder=folder,
    )
    show(found)
    if folder is not None:
        write_evaluation_folder(folder, found, evaluation_page(found, images_of(_Shown(matched.source))))
    return found


evaluate_run = evaluate
"""Previous name of :func:`evaluate`."""


def evaluation_loader(
    source: Source, facts: DataFacts, batch_size: int = 64, num_workers: int | None = None
) -> BatchLoader:
    """Return a loader of all images of a source, preprocessed as a model takes them, in the order of the rows.

    Args:
        source: labelled images.
        facts: the facts of the model, with its preprocessing.
        batch_size: number of images in a batch.
        num_workers: number of processes; by default up to 8, and none for data in memory.
    """
    pipeline = build_transforms(
        list(facts.eval_transforms), "eval_transforms", image_size=facts.image_size, in_channels=facts.channels
    )
    dataset = EvaluationSet(source, np.arange(len(source)), pipeline, facts.channels, 0)  # type: ignore[arg-type]
    cores = usable_cores()
    automatic = 0 if source.in_memory or cores < 2 or len(source) <= batch_size else min(8, cores)
    workers = automatic if num_workers is None else num_workers
    return BatchLoader(
        dataset, batch_size=batch_size, sampler=SequentialSampler(dataset), num_workers=workers, drop_last=False
    )


def _predict(
    model: EvaluatedModel, source: Source, batch_size: int, num_workers: int | None, say: Callable[[str], None]
) -> tuple[Predictions, dict[str, str]]:
    ids: list[str] = []
    targets, logits = [], []
    skipped: dict[str, str] = {}
    said = time.monotonic()
    for batch in evaluation_loader(source, model.facts, batch_size, num_workers):
        skipped |= dict(batch.skipped)
        if len(batch):
            ids += batch.ids
            targets.append(batch.targets.numpy())
            logits.append(model.logits(batch).numpy())
        if time.monotonic() - said > _PROGRESS_SECONDS:
            said = time.monotonic()
            say(f"{len(ids) + len(skipped):,} of {len(source):,} images")
    if not ids:
        first, reason = next(iter(skipped.items()))
        raise UserError(f"evaluate: none of the {len(source):,} images can be read. The first: {first}: {reason}.")
    order = sorted(range(len(ids)), key=ids.__getitem__)
    found = Predictions(
        [ids[i] for i in order],
        np.concatenate(targets)[order],
        np.concatenate(logits)[order],
        model.facts.class_names,
    )
    return found, skipped


def _folder_in(model: EvaluatedModel, given: Path, name: str) -> Path | None:
    """The folder inside the run that was given; ``None`` for a model that is not given as a run folder."""
    own = model.run is not None and model.run.path.absolute() == given.absolute()
    return evaluation_folder(model.run, name) if own and model.run is not None else None


def _default_name(data: Any, given: Mapping[str, Any], split: str | None, tta: Specs | None) -> str:
    text = str(data)
    if isinstance(data, Mapping | Source) or text.lstrip().startswith("{"):
        spec = given["source"]
        arguments = spec if isinstance(spec, Mapping) else {}
        text = str(next((arguments[key] for key in ("root", "file", "path") if key in arguments), None) or _word(spec))
    return "-".join([name_from(text), *([split] if split else []), *(["tta"] if tta is not None else [])])


def _word(spec: Any) -> str:
    return str(spec.get("name", "evaluation")) if isinstance(spec, Mapping) else str(spec)


def _views(tta: Specs | None, average: Average) -> list[Any] | None:
    return None if tta is None else [tta if isinstance(tta, list) else [tta], average]


def _described(source: Source) -> str:
    return f"{type(source).__module__}.{type(source).__qualname__}"


def _is_file(data: Any) -> bool:
    """Return True if ``data`` is a path, and not a spec or a source."""
    return isinstance(data, Path) or (isinstance(data, str) and not data.lstrip().startswith("{"))


class _Shown:
    """The images of a source by id, for the page."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._row_of = {name: row for row, name in enumerate(source.ids)}

    def load_images(self, ids: Iterable[str]) -> list[Tensor | None]:
        """Return the images of these ids; ``None`` for one that cannot be read."""
        found: list[Tensor | None] = []
        for name in ids:
            try:
                found.append(self._source.load(self._row_of[name]))
            except BadImage:
                found.append(None)
        return found


def print_progress(text: str) -> None:
    """Print a line of progress to stderr."""
    print(text, file=sys.stderr, flush=True)
