"""Quantization of the model of a run, with its accuracy drop and an optional budget."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import torch
from annotated_types import Ge, Le

from imgrec.compress.quantization.calibration import Images, check_calibration, unit_batches
from imgrec.compress.quantization.onnx_graph import match_layers
from imgrec.compress.quantization.onnx_static import Ranges
from imgrec.compress.quantization.openvino import Biases
from imgrec.compress.quantization.quantizer import Quantizer
from imgrec.compress.quantization.sensitivity import Layers, divergence, group_layers, rank_layers, search_budget
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
from imgrec.runs.data import load_run_data
from imgrec.runs.folder import RunFolder
from imgrec.runs.load import load_classifier
from imgrec.studies.compression.accuracy_budget import (
    AccuracyCheck,
    AccuracyEvaluator,
    Budget,
    check_evaluation_data,
)
from imgrec.utils.ranges import ClosedUnitInterval, OpenUnitInterval, PositiveInt, check_ranges

logger = logging.getLogger(__name__)

Method = Literal["static", "dynamic", "weights"]
Points = Annotated[float, Ge(0), Le(100)]
_SENSITIVITY_IMAGES = 64
"""Number of calibration images for the sensitivity of a layer."""


@check_ranges
def quantize_run(
    run: str | os.PathLike[str],
    to: str = "int8",
    runtime: str = "onnxruntime",
    max_drop: Points | None = None,
    *,
    level: OpenUnitInterval = 0.95,
    sure: bool = False,
    max_kept: ClosedUnitInterval = 0.5,
    calibration: PositiveInt = 256,
    calibrate_on: CalibrationSplit = "train",
    method: Method = "static",
    ranges: Ranges = "minmax",
    biases: Biases = "auto",
    exclude: Sequence[str] = (),
    seed: int = 0,
    data: ImageDataModule | None = None,
    name: str | None = None,
) -> Path:
    """Export the model of a run in a lower precision, and measure its accuracy drop on the validation images.

    Reference and export run in the same runtime on the same images. If int8 in all layers exceeds the budget, each
    layer is quantized alone, and its sensitivity is the change of the probabilities of calibration images. The smallest
    number of the most sensitive layers that satisfies the budget stays in floating point. The layers are selected on
    the validation images, so that the reported drop is optimistic. Test images are not used.

    Args:
        run: Run folder.
        to: Precision of the export: ``int8``, ``fp16``, ``fp32``, or another precision of the format of the runtime.
            Defaults to ``int8``.
        runtime: Runtime of the export, a name in :data:`imgrec.RUNTIMES`. Defaults to ``onnxruntime``.
        max_drop: Largest drop in points of accuracy, in [0, 100]. Defaults to None: the drop is measured only.
        level: Confidence level of the reported interval, in (0, 1). Defaults to 0.95.
        sure: True to compare the upper end of the interval with ``max_drop`` instead of the drop. Defaults to False.
        max_kept: Largest share of layers in floating point, in [0, 1]. Defaults to 0.5.
        calibration: Number of calibration images for int8. Defaults to 256.
        calibrate_on: Split of the calibration images, ``train`` or ``val``. The drop is measured on the other images
            of ``val``. Defaults to ``train``.
        method: ``static``, or for transformers in ONNX Runtime ``dynamic`` or ``weights``. See
            :mod:`imgrec.compress.quantization.onnx_weight_only`. Defaults to ``static``.
        ranges: Estimation of the ranges of static int8 in ONNX Runtime. See
            :class:`imgrec.compress.quantization.onnx_static.OnnxInt8`. Defaults to ``minmax``.
        biases: Bias correction of int8 in OpenVINO. See
            :class:`imgrec.compress.quantization.openvino.OpenVinoInt8`. Defaults to ``auto``.
        exclude: Names or patterns of layers that stay in floating point. Defaults to none.
        seed: Seed of the selection of calibration images. Defaults to 0.
        data: Data module of the run, after ``setup``. Defaults to that of its config.
        name: Name of the folder below ``exports/``. Defaults to runtime and precision: ``onnxruntime-int8``.

    Returns:
        Path ``<run>/exports/<name>``. Under ``quantization``, its export.json contains the calibration, the drop and
        each trial of the search.

    Raises:
        BudgetExceededError: If no trial satisfies the budget. The message contains the nearest trial. No export is
            written, and an existing export is unchanged.
        UserError: If a name is unknown, if there are too few images, or if the model cannot be exported or does not
            accept the images.
    """
    budget = Budget(max_drop, level, sure, max_kept)
    name_of_format = _check_method(to, runtime, method)
    format = find_format(name_of_format)
    folder = RunFolder(run)
    classifier, facts = load_classifier(folder.path)
    module = load_run_data(folder) if data is None else data
    check_evaluation_data(module, facts)
    target = folder.exports / (name or f"{runtime}-{to}")
    with export_aside(target) as aside, tempfile.TemporaryDirectory() as place:
        export = _QuantizedExport(Path(place), aside / format.files[0], to, runtime, budget, format)
        if to == "int8":
            selected = calibration_images(module, calibration, calibrate_on, seed)
            images = selected.images.numpy()
            check_calibration(images, (facts.channels, facts.image_size, facts.image_size))
            export.set_reference(write_onnx(classifier, facts, export.source), module, set(selected.ids))
            writer = format.quantizer(export.source, images, method, ranges, biases)
            kept = match_layers(exclude, writer.layers)
            record = {
                "method": method,
                "calibration": {"split": selected.split, "images": len(selected.ids), "seed": selected.seed},
                **writer.settings,
                **export.write_int8(writer, images, kept),
            }
        else:
            export.set_reference(write_onnx(classifier, facts, export.source), module, set())
            record = export.write_cast()
        difference = check_agreement(export.file, runtime, classifier, facts, None, to)
        description = describe_network(facts, classifier.mean, classifier.std)
        embed_description(export.file, description)
        result = Export(target, name_of_format, to, facts, difference, record, description.to_dict())
        write_description(aside, result)
    return target


class _QuantizedExport:
    """The files of a quantized export and the evaluation of its accuracy."""

    def __init__(self, place: Path, file: Path, to: str, runtime: str, budget: Budget, format: Format) -> None:
        self.file = file
        self.source = place / "source.onnx"
        self._place = place
        self._to = to
        self._runtime = runtime
        self._budget = budget
        self._format = format

    def set_reference(self, source: Path, data: ImageDataModule, excluded: set[str]) -> None:
        """Evaluate the model in float32 in the same runtime."""
        reference = self._format.convert(source, self._place / f"float{self._format.suffix}")
        self._evaluate = AccuracyEvaluator(data, reference, self._runtime, excluded, self._budget)

    def write_cast(self) -> dict[str, Any]:
        """Write the model in another floating-point type and return the record of its accuracy."""
        self._format.convert(self.source, self.file, self._to)
        found = self._evaluate(self.file, "bf16" if self._to == "bf16" else None)
        self._log("%s for %s: %s", self._to, self._runtime, found.drop)
        if found.cost(self._budget) > self._budget.points:
            raise BudgetExceededError(f"{self._exceeded()}: {found.drop}")
        return {"method": "cast", **self._record(found, True)}

    def write_int8(self, writer: Quantizer, images: Images, excluded: Sequence[str]) -> dict[str, Any]:
        """Write the model in int8 with the smallest number of floating-point layers that satisfies the budget."""
        free = [layer for layer in writer.layers if layer not in excluded]
        ranking: list[tuple[Layers, float]] = []

        def rank() -> list[Layers]:
            logger.info("measuring the sensitivity of %d layers", len(free))
            ranking.extend(self._rank(writer, images[:_SENSITIVITY_IMAGES], free))
            return [group for group, _ in ranking]

        def evaluate(kept: Layers) -> AccuracyCheck:
            found = self._evaluate(writer.write(self._place / f"trial{self.file.suffix}", (*excluded, *kept)))
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
                f"{self._exceeded()}: {first.result.drop}.{kept} Train for int8 (qat), allow more layers (max_kept) "
                "or a larger drop."
            )
        writer.write(self.file, (*excluded, *search.best.kept))
        return {
            "layers": len(writer.layers),
            "kept": [layer for layer in writer.layers if layer in (*excluded, *search.best.kept)],
            **self._record(search.best.result, search.holds),
            "sensitivity": [{"layers": list(group), "divergence": value} for group, value in ranking],
            "trials": [{"kept": list(trial.kept), **trial.result.to_dict()} for trial in search.trials],
        }

    def _rank(self, writer: Quantizer, images: Images, layers: Sequence[str]) -> list[tuple[Layers, float]]:
        ranker = writer.for_sensitivity(images)
        format = format_of_suffix(ranker.suffix)
        runtime = self._runtime if format.suffix == self._format.suffix else runtimes_for_suffix(format.suffix)[0]
        source = format.convert(self.source, self._place / f"reference{format.suffix}")
        batches = list(unit_batches(images, _SENSITIVITY_IMAGES))
        threads = torch.get_num_threads()
        with open_runtime(source, runtime, threads=threads) as network:
            reference = network(batches[0])

        def measure(group: Layers) -> float:
            file = self._place / f"one{ranker.suffix}"
            ranker.write(file, [layer for layer in ranker.layers if layer not in group])
            with open_runtime(file, runtime, threads=threads) as network:
                return divergence(reference, network(batches[0]))

        return rank_layers(group_layers(layers), measure)

    def _log(self, text: str, *values: Any) -> None:
        """Log the drop of a trial. Without a budget there is one trial, whose result the command prints."""
        logger.log(logging.DEBUG if self._budget.max_drop is None else logging.INFO, text, *values)

    def _exceeded(self) -> str:
        return f"max_drop: {self._to} for {self._runtime} costs more than {self._budget.max_drop:g} points of accuracy"

    def _record(self, found: AccuracyCheck, holds: bool) -> dict[str, Any]:
        budget = self._budget
        return {
            "accuracy": {"split": AccuracyEvaluator.split, **found.to_dict()},
            "budget": {"max_drop": budget.max_drop, "sure": budget.sure, "max_kept": budget.max_kept, "holds": holds},
        }


def quantization_packages(to: str, runtime: str) -> tuple[tuple[str, str], ...]:
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


def _check_method(to: str, runtime: str, method: str) -> str:
    name = check_target(to, runtime)
    check_choice(method, get_args(Method), "method")
    if method != "static" and (to != "int8" or method not in find_format(name).quantization):
        raise UserError(f'method: expected "static" for {to} and {runtime}, got "{method}".')
    require_runtime(runtime)
    return name
