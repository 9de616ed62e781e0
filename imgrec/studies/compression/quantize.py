"""A run's network in a lower precision, with what that costs in accuracy, within a budget."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from imgrec.compress.quantization.calibration import Images, check_calibration, unit_batches
from imgrec.compress.quantization.onnx_graph import match_layers
from imgrec.compress.quantization.onnx_static import Ranges
from imgrec.compress.quantization.openvino import Biases
from imgrec.compress.quantization.quantizer import Quantizer
from imgrec.compress.quantization.sensitivity import Layers, divergence, neighbours, rank_layers, search_budget
from imgrec.data import ImageDataModule
from imgrec.data.calibration import CalibrationSplit, calibration_images
from imgrec.errors import BudgetExceededError, UserError
from imgrec.export.description import describe_network
from imgrec.export.export_folder import Export, check_choice, export_aside, write_description
from imgrec.export.formats import Format
from imgrec.export.formats.registry import export_runtimes, find_format, format_names, format_of_suffix
from imgrec.export.metadata import embed_description
from imgrec.export.onnx_writer import write_onnx
from imgrec.export.runtimes.registry import open_runtime, require_runtime, runtime_class, runtimes_for_suffix
from imgrec.export.verify import check_agreement
from imgrec.runs.data import data_of
from imgrec.runs.folder import RunFolder
from imgrec.runs.load import load_classifier
from imgrec.studies.compression.accuracy_budget import Budget, Judge, Judgement, check_data

logger = logging.getLogger(__name__)

Method = Literal["static", "dynamic", "weights"]
_RANKED_ON = 64
"""Calibration images on which a layer's sensitivity is measured."""


def quantize_run(
    run: str | os.PathLike[str],
    to: str = "int8",
    runtime: str = "onnxruntime",
    max_drop: float | None = None,
    *,
    level: float = 0.95,
    sure: bool = False,
    max_kept: float = 0.5,
    calibration: int = 256,
    calibrate_on: CalibrationSplit = "train",
    method: Method = "static",
    ranges: Ranges = "minmax",
    biases: Biases = "auto",
    exclude: Sequence[str] = (),
    seed: int = 0,
    data: ImageDataModule | None = None,
    name: str | None = None,
) -> Path:
    """Export a run's network in a lower precision, and measure on its validation images what that costs.

    Both sides run in the same runtime on the same images. Where a budget is given and int8 in all layers costs more,
    each layer is quantized alone to see how far it leads the probabilities of calibration images astray, and the
    fewest of the most sensitive layers that the budget asks for stay in floating point. The drop is that of the
    network that was chosen on these very images; the test images are not looked at, and remain for a test.

    Args:
        run: a run folder.
        to: Precision of the export: ``int8``, ``fp16``, ``fp32``, or another one of the runtime's format.
        runtime: Runtime that the export is for, a name in :data:`imgrec.RUNTIMES`.
        max_drop: how many points of accuracy it may cost; without one it is measured, and nothing follows from it.
        level: the confidence of the interval that is reported with the drop.
        sure: hold the upper end of that interval against ``max_drop``, not the drop itself.
        max_kept: the part of the layers that may stay in floating point at most.
        calibration: how many images the ranges of int8 are read from.
        calibrate_on: ``train`` or ``val``; of ``val``, the others are judged on then.
        method: ``static``; for transformers in ONNX Runtime ``dynamic`` or ``weights``: see
            :mod:`imgrec.compress.quantization.onnx_weight_only`.
        ranges: how static int8 in ONNX Runtime reads them: see
        :class:`imgrec.compress.quantization.onnx_static.OnnxInt8`.
        biases: how int8 in OpenVINO corrects them: see :class:`imgrec.compress.quantization.openvino.OpenVinoInt8`.
        exclude: layers that stay in floating point in any case: names or patterns.
        seed: of the draw of calibration images.
        data: the run's data module, set up; by default what its config says.
        name: of the folder below ``exports/``; by default runtime and precision, ``onnxruntime-int8``.

    Returns:
        ``<run>/exports/<name>``. Its export.json records under ``quantization`` the calibration, the drop and each
        trial of the search.

    Raises:
        BudgetExceededError: If the budget does not hold; the message states what came nearest. No export is written
            then, and an earlier one in the folder stays as it was.
        UserError: If a word is unknown, there are too few images, the network does not take the images, or it cannot
            be exported.
    """
    budget = Budget(max_drop, level, sure, max_kept)
    name_of_format = _check_words(to, runtime, method)
    format = find_format(name_of_format)
    folder = RunFolder(run)
    classifier, facts = load_classifier(folder.path)
    given = data_of(folder) if data is None else data
    check_data(given, facts)
    target = folder.exports / (name or f"{runtime}-{to}")
    with export_aside(target) as aside, tempfile.TemporaryDirectory() as place:
        work = _Work(Path(place), aside / format.files[0], to, runtime, budget, format)
        if to == "int8":
            drawn = calibration_images(given, calibration, calibrate_on, seed)
            images = drawn.images.numpy()
            check_calibration(images, (facts.channels, facts.image_size, facts.image_size))
            work.begin(write_onnx(classifier, facts, work.source), given, set(drawn.ids))
            writer = format.quantizer(work.source, images, method, ranges, biases)
            kept = match_layers(exclude, writer.layers)
            record = {
                "method": method,
                "calibration": {"split": drawn.split, "images": len(drawn.ids), "seed": drawn.seed},
                **writer.settings,
                **work.int8(writer, images, kept),
            }
        else:
            work.begin(write_onnx(classifier, facts, work.source), given, set())
            record = work.cast()
        difference = check_agreement(work.file, runtime, classifier, facts, None, to)
        description = describe_network(facts, classifier.mean, classifier.std)
        embed_description(work.file, description)
        export = Export(target, name_of_format, to, facts, difference, record, description.to_dict())
        write_description(aside, export)
    return target


class _Work:
    """One export in the making: where its files lie, and what it is held against."""

    def __init__(self, place: Path, file: Path, to: str, runtime: str, budget: Budget, format: Format) -> None:
        self.file = file
        self.source = place / "source.onnx"
        self._place = place
        self._to = to
        self._runtime = runtime
        self._budget = budget
        self._format = format

    def begin(self, source: Path, data: ImageDataModule, left_out: set[str]) -> None:
        """Judge the network in float32, in the same runtime."""
        reference = self._format.convert(source, self._place / f"float{self._format.suffix}")
        self._judge = Judge(data, reference, self._runtime, left_out, self._budget)

    def cast(self) -> dict[str, Any]:
        """Write the network in another kind of floating point."""
        self._format.convert(self.source, self.file, self._to)
        found = self._judge(self.file, "bf16" if self._to == "bf16" else None)
        self._log("%s for %s: %s", self._to, self._runtime, found.drop)
        if found.cost(self._budget) > self._budget.points:
            raise BudgetExceededError(f"{self._beyond()}: {found.drop}")
        return {"method": "cast", **self._said(found, True)}

    def int8(self, writer: Quantizer, images: Images, excluded: Sequence[str]) -> dict[str, Any]:
        """Write the network in int8, with as few layers in floating point as the budget asks for."""
        free = [layer for layer in writer.layers if layer not in excluded]
        ranking: list[tuple[Layers, float]] = []

        def rank() -> list[Layers]:
            logger.info("measuring how sensitive each of %d layers is", len(free))
            ranking.extend(self._rank(writer, images[:_RANKED_ON], free))
            return [group for group, _ in ranking]

        def evaluate(kept: Layers) -> Judgement:
            found = self._judge(writer.write(self._place / f"trial{self.file.suffix}", (*excluded, *kept)))
            self._log(
                "int8 with %d of %d layers in float: %s", len(kept) + len(excluded), len(writer.layers), found.drop
            )
            return found

        most = min(int(self._budget.max_kept * len(free)), len(free) - 1)
        search = search_budget(rank, evaluate, lambda found: found.cost(self._budget), self._budget.points, most)
        if not search.holds:
            first, best = search.trials[0], search.best
            kept = f" With {len(best.kept)} of {len(free)} layers in float: {best.result.drop}." if best.kept else ""
            raise BudgetExceededError(
                f"{self._beyond()}: {first.result.drop}.{kept} Train for int8 (qat), allow more layers (max_kept) "
                "or a larger drop."
            )
        writer.write(self.file, (*excluded, *search.best.kept))
        return {
            "layers": len(writer.layers),
            "kept": [layer for layer in writer.layers if layer in (*excluded, *search.best.kept)],
            **self._said(search.best.result, search.holds),
            "sensitivity": [{"layers": list(group), "divergence": value} for group, value in ranking],
            "trials": [{"kept": list(trial.kept), **trial.result.to_dict()} for trial in search.trials],
        }

    def _rank(self, writer: Quantizer, images: Images, layers: Sequence[str]) -> list[tuple[Layers, float]]:
        ranker = writer.for_sensitivity(images)
        format = format_of_suffix(ranker.suffix)
        runtime = self._runtime if format.suffix == self._format.suffix else runtimes_for_suffix(format.suffix)[0]
        source = format.convert(self.source, self._place / f"reference{format.suffix}")
        batches = list(unit_batches(images, _RANKED_ON))
        threads = torch.get_num_threads()
        with open_runtime(source, runtime, threads=threads) as network:
            reference = network(batches[0])

        def measure(group: Layers) -> float:
            file = self._place / f"one{ranker.suffix}"
            ranker.write(file, [layer for layer in ranker.layers if layer not in group])
            with open_runtime(file, runtime, threads=threads) as network:
                return divergence(reference, network(batches[0]))

        return rank_layers(neighbours(layers), measure)

    def _log(self, text: str, *values: Any) -> None:
        """Log what a trial cost. Without a budget there is one trial, and its result is what the command prints."""
        logger.log(logging.DEBUG if self._budget.max_drop is None else logging.INFO, text, *values)

    def _beyond(self) -> str:
        return f"max_drop: {self._to} for {self._runtime} costs more than {self._budget.max_drop:g} points of accuracy"

    def _said(self, found: Judgement, holds: bool) -> dict[str, Any]:
        budget = self._budget
        return {
            "accuracy": {"split": Judge.split, **found.to_dict()},
            "budget": {"max_drop": budget.max_drop, "sure": budget.sure, "max_kept": budget.max_kept, "holds": holds},
        }


def needed_to_quantize(to: str, runtime: str) -> tuple[tuple[str, str], ...]:
    """Return the modules that a quantization requires, each with its extra.

    Raises:
        UserError: If the runtime is unknown, or its format does not store the precision.
    """
    name = check_target(to, runtime)
    format, package = find_format(name), runtime_class(runtime).package
    return (*format.packages, *((package,) if package else ()), *format.quantization_packages)


def check_target(to: str, runtime: str) -> str:
    """Return the format of a quantization for a runtime.

    Raises:
        UserError: If the runtime is unknown, opens no format, or its format does not store the precision.
    """
    check_choice(runtime, export_runtimes(), "runtime")
    name = format_names(runtime)[0]
    check_choice(to, find_format(name).all_precisions, f"to ({runtime})")
    return name


def _check_words(to: str, runtime: str, method: str) -> str:
    name = check_target(to, runtime)
    check_choice(method, get_args(Method), "method")
    if method != "static" and (to != "int8" or method not in find_format(name).quantization):
        raise UserError(f'method: expected "static" for {to} and {runtime}, got "{method}".')
    require_runtime(runtime)
    return name
