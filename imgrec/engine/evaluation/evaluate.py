"""Evaluation of a trained model on all of a labelled set: ``imgrec.evaluate`` and ``imgrec evaluate``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from imgrec.augment.test_time import Average
from imgrec.data.labelled_set import build_whole_source, rows_in_split, source_spec
from imgrec.data.match_classes import MatchedSource, match_classes
from imgrec.data.sources.base import Source
from imgrec.data.splits.assign import Splits
from imgrec.data.splits.table import SplitTable
from imgrec.engine.evaluation.evaluated_model import EvaluatedModel, open_model
from imgrec.engine.evaluation.evaluation_data import SourceImages, predict_source
from imgrec.errors import UserError
from imgrec.registry import Specs
from imgrec.reports.evaluation_page import evaluation_page
from imgrec.runs.data import make_image_loader
from imgrec.runs.evaluations import (
    LEVEL,
    Evaluation,
    check_name,
    check_overwrite,
    default_evaluation_name,
    evaluation_folder,
    write_evaluation_folder,
)
from imgrec.runs.folder import RunFolder
from imgrec.runs.predictions import Predictions
from imgrec.stats.metric_intervals import metric_intervals
from imgrec.trust import Trust, allow, opening


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
    """Evaluate a trained model on all images of a labelled set, regardless of the splits of the set.

    Classes are matched by name, or by ``data.classes`` of the run if it is set. The set may lack classes of the
    model. The result of a run folder is written to its folder ``evaluations/<name>/``: predictions.parquet,
    metrics.json with 95 % intervals, source.yaml and report.html. The metrics of the run itself are unchanged.

    Args:
        run: Run folder, checkpoint, model folder or export. Only a run folder is written to.
        data: Folder, CSV, parquet or tar file, YAML file with a source, spec of a source, or source.
        name: Name of the evaluation. Defaults to a name derived from ``data``, ``split`` and ``tta``.
        split: Split of the source, ``train``, ``val`` or ``test``. Defaults to all images.
        tta: Specs of test-time views, see ``imgrec list views``. Defaults to none.
        tta_average: Average of the ``probabilities`` or of the ``logits`` of the views. Defaults to
            ``probabilities``.
        device: Device such as ``cpu`` or ``cuda``. Defaults to ``auto``: a GPU if there is one.
        batch_size: Number of images in a batch, 1 or more. Defaults to 64.
        num_workers: Number of processes that read images. Defaults to at most 8, and to 0 for data in memory.
        skip_unknown: If true, images of classes that the model lacks are counted and skipped. Defaults to ``False``:
            such images raise an error.
        overwrite: If true, an evaluation of that name with other images, weights or views is replaced. Defaults to
            ``False``.
        out: Folder to write to. Defaults to the folder inside the run.
        trust: Names of classes and modules that the model and a YAML file ``data`` may contain in addition to the
            registries. ``True`` allows every name. Defaults to none.
        say: Function that receives the progress as text, every five seconds.
        show: Function that receives the evaluation before it is written.

    Raises:
        UserError: If the model or the data cannot be used, or if another evaluation has that name.
        UntrustedError: If the model names a class outside the registries that is not trusted.
        WriteError: If the results cannot be written.

    Example::

        evaluation = imgrec.evaluate("runs/digits/quickstart/20261121-143005", "field-images")
        print(evaluation.metrics["acc"], evaluation.intervals["acc"])

    See also: :func:`imgrec.engine.evaluation.split_evaluation.evaluate_split` evaluates a split of the data of the run.
    """
    path = Path(run.path if isinstance(run, RunFolder) else run).expanduser()
    if batch_size < 1:
        raise UserError(f"batch_size: expected 1 or more, got {batch_size}.")
    if name is not None:
        check_name(name)
    with opening(str(path), trust):
        model = open_model(path, device, tta, tta_average)
        given = {"source": _class_name(data)} if isinstance(data, Source) else source_spec(data)
        if not _is_file(data):  # the caller wrote the spec, while a file may have been received
            allow(given)
        source = data if isinstance(data, Source) else build_whole_source(given["source"], given.get("classes"))
    matched = _match(model, source, split, skip_unknown)
    title = name or _default_name(data, given, split, tta)
    identity = {"images": _digest(matched.source), "weights": model.weights, "tta": _views(tta, tta_average)}
    folder = Path(out) if out is not None else _folder_in(model, path, title)
    if folder is not None:
        check_overwrite(folder, identity, overwrite)
    predictions, skipped = predict_source(model, matched.source, batch_size, num_workers, say)
    evaluation = Evaluation(
        name=title,
        model=(str(path), model.title),
        predictions=predictions,
        metrics=_metrics(model, predictions),
        intervals=metric_intervals(predictions.logits, predictions.targets, LEVEL),
        source={**given, **({"split": split} if split else {})},
        skipped=skipped,
        left_out=matched.left_out,
        unknown=matched.unknown,
        trained_on=_count_trained_on(model, matched.source),
        identity=identity,
        folder=folder,
    )
    show(evaluation)
    if folder is not None:
        page = evaluation_page(evaluation, make_image_loader(SourceImages(matched.source)))
        write_evaluation_folder(folder, evaluation, page)
    return evaluation


evaluate_run = evaluate
"""Previous name of :func:`evaluate`."""


def _match(model: EvaluatedModel, source: Source, split: str | None, skip_unknown: bool) -> MatchedSource:
    """Return the images of a split with the class indices of the model."""
    arguments = {} if model.run is None else (model.run.config.get("data") or {}).get("init_args") or {}
    rows = rows_in_split(source, split)
    return match_classes(source, model.facts.class_names, arguments.get("classes"), rows, skip_unknown)


def _digest(source: Source) -> str:
    """Return the digest of the ids and labels of all images."""
    nothing = np.arange(0)
    return SplitTable.from_splits(source, Splits(nothing, nothing, np.arange(len(source)))).digest


def _metrics(model: EvaluatedModel, predictions: Predictions) -> dict[str, float]:
    metrics = model.metrics(torch.from_numpy(predictions.logits), torch.from_numpy(predictions.targets))
    return {key: float(value) for key, value in metrics.items()}


def _count_trained_on(model: EvaluatedModel, source: Source) -> int:
    """Return the number of images that the run was trained on, 0 if its split is not stored."""
    stored = None if model.run is None else model.run.splits()
    return 0 if stored is None else len(stored.trained_on(source, np.arange(len(source))))


def _folder_in(model: EvaluatedModel, path: Path, name: str) -> Path | None:
    """Return the folder of an evaluation inside a run, or ``None`` if ``path`` is not the folder of the run."""
    is_run = model.run is not None and model.run.path.absolute() == path.absolute()
    return evaluation_folder(model.run, name) if is_run and model.run is not None else None


def _default_name(data: Any, given: Mapping[str, Any], split: str | None, tta: Specs | None) -> str:
    text = str(data)
    if isinstance(data, Mapping | Source) or text.lstrip().startswith("{"):
        spec = given["source"]
        arguments = spec if isinstance(spec, Mapping) else {}
        text = str(next((arguments[key] for key in ("root", "file", "path") if key in arguments), None) or _word(spec))
    return "-".join([default_evaluation_name(text), *([split] if split else []), *(["tta"] if tta is not None else [])])


def _word(spec: Any) -> str:
    return str(spec.get("name", "evaluation")) if isinstance(spec, Mapping) else str(spec)


def _views(tta: Specs | None, average: Average) -> list[Any] | None:
    return None if tta is None else [tta if isinstance(tta, list) else [tta], average]


def _class_name(source: Source) -> str:
    return f"{type(source).__module__}.{type(source).__qualname__}"


def _is_file(data: Any) -> bool:
    """Return True if ``data`` is a path, not a spec or a source."""
    return isinstance(data, Path) or (isinstance(data, str) and not data.lstrip().startswith("{"))
