"""The compression study: smaller and faster variants of a trained run, each in a separate run folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import pytorch_lightning as pl
import torch

from imgrec.compress.plan import Plan, find_conflict
from imgrec.compress.steps import CompressionStep, Prune, Qat, Quantize, Training
from imgrec.compress.surgery import surgery_of
from imgrec.errors import UserError
from imgrec.export import Loaded, read_model_folder, read_origin, save_model_folder
from imgrec.export.runtimes.registry import open_runtime
from imgrec.reports.compression_section import KEY
from imgrec.reports.report import write_report
from imgrec.runs.data import load_run_data, make_image_loader, store_splits
from imgrec.runs.evaluation import predict_split, record_predictions
from imgrec.runs.folder import RunFolder
from imgrec.runs.lock import RunLock
from imgrec.runs.summary import update_summary
from imgrec.studies.compression.comparison import difference_to_parent
from imgrec.studies.compression.finetune_config import Config, training_config
from imgrec.studies.compression.latency import compare_latency
from imgrec.studies.compression.operations import Operations
from imgrec.studies.compression.plan_budget import check_parent, evaluate_budget
from imgrec.studies.compression.quantize import quantization_packages, quantize_run
from imgrec.studies.compression.stages import OWN, Stage, plan_stages
from imgrec.studies.compression.variant import Parent, create_variant, discard_untouched, find_variant, is_done
from imgrec.utils.optional import require
from imgrec.utils.terminal import print

Train = Callable[[Path, Config], bool]
"""Function that trains a config in a folder, or resumes there. It returns False if the training was interrupted."""

_PACKAGES: dict[type[CompressionStep], tuple[tuple[str, str], ...]] = {
    Prune: (("torch_pruning", "compress"),),
    Qat: (("onnx", "export"), ("onnxruntime", "export")),
}


class Compression:
    """Study that applies compression plans to one trained run.

    Each plan writes a run folder next to the run, under ``compressed/<variant>/``. The same call resumes an
    interrupted variant, also in the middle of an epoch. A finished variant is kept.

    Args:
        run: Run folder.
        train: See :data:`Train`.
        check: Function that raises an error for an invalid config of a training. Defaults to no check.
        report: Function that receives each line of progress. Defaults to ``print``.

    Raises:
        UserError: If the run is not finished, is training at the moment, or if its data is not available.
    """

    def __init__(
        self,
        run: RunFolder | str | Path,
        train: Train,
        check: Callable[[Config], None] = lambda config: None,
        report: Callable[[str], None] = print,
    ) -> None:
        self.parent = Parent(run if isinstance(run, RunFolder) else RunFolder(run))
        self.train, self.check, self.report = train, check, report
        self.data = load_run_data(self.parent.run)
        self.done: list[RunFolder] = []

    @cached_property
    def dense(self) -> Loaded:
        """Model of the run."""
        return read_origin(self.parent.run.path, "compress")

    @cached_property
    def operations(self) -> Operations:
        """Compression steps without training."""
        return Operations(self.data, self.dense.classifier)

    def run(self, plans: Sequence[Plan]) -> list[RunFolder]:
        """Apply plans and return their run folders. :attr:`done` lists the finished ones.

        A plan with ``max_drop`` is evaluated after its last step. A variant that exceeds it is kept and marked, see
        :func:`imgrec.studies.compression.plan_budget.raise_if_exceeded`. A quantization step that exceeds its own
        budget writes no export.

        Raises:
            UserError: If two plans have the same name, or if a plan does not match this run. No file is written.
            BudgetExceededError: If a step exceeds its own budget. Its export is not written.
            WriteError: If a file cannot be written.
        """
        self.validate(plans)
        for plan in plans:
            self.done.append(self._run_plan(plan))
        return self.done

    def validate(self, plans: Sequence[Plan]) -> None:
        """Check plans before any step is run.

        Raises:
            UserError: If two plans have the same name, if a package is missing, or if the config of a training is
                invalid.
        """
        names = [plan.name for plan in plans]
        for name in names:
            if names.count(name) > 1:
                raise UserError(f'name: expected a different name for each variant, got "{name}" twice.')
        trained = any(step["step"] == "qat" for step in surgery_of(self.dense.classifier))
        if any(plan.max_drop is not None for plan in plans):
            check_parent(self.parent.run)
        for plan in plans:
            for step in plan.steps:
                if trained and (reason := find_conflict(Qat(), step)) is not None:
                    raise UserError(f"{step.name}: the run {self.parent.run.path} was trained for int8: {reason}")
                for module, extra in required_packages(step):
                    require(module, extra, step.name)
            for stage in plan_stages(plan):
                if isinstance(stage.step, Training):
                    self.check(self._config(plan, stage, str(self.parent.run.path)))

    def preview(self, plan: Plan) -> list[str]:
        """Return lines that describe the stages of a plan and the state of its variant."""
        found = find_variant(self.parent, plan)
        root, experiment = self.parent.place(plan.name)
        where = found.path if found else Path(root) / experiment / "<time>"
        state = "is finished" if found and is_done(found) else "is resumed" if found else "is new"
        lines = [f"{plan.name}: {state}: {where}"]
        for number, stage in enumerate(plan_stages(plan), 1):
            lines.append(f"  {number}. {stage.description}")
            if isinstance(stage.step, Training):
                config = self._config(plan, stage, "")
                lr = config["model"]["init_args"]["optimizer"]["lr"]
                lines[-1] += f", learning rate {lr:g}"
        if plan.max_drop is not None:
            lines.append(f"  budget: a drop of at most {plan.max_drop:g} points against the run, after all steps")
        return lines

    # ---------------------------------------------------------------- one variant

    def _run_plan(self, plan: Plan) -> RunFolder:
        found = find_variant(self.parent, plan)
        if found is not None and is_done(found):
            self.report(f"{plan.name}: is finished: {found.path}")
            before = found.summary[KEY]
            if plan.max_drop is not None:
                evaluate_budget(found, plan.max_drop)
            if found.summary[KEY] != before:
                self._write_report(found)
            return found
        stages = plan_stages(plan)
        if found is None:
            found = create_variant(self.parent, plan)
            store_splits(found.path, self.data)
        pl.seed_everything(int(self.parent.run.config.get("seed_everything", 0)), verbose=False)
        for number, stage in enumerate(stages, 1):
            self.report(f"{plan.name}, {number} of {len(stages)}: {stage.description}")
            self._run_stage(plan, stages, stage, found)
        self._finish(plan, stages, found)
        return found

    def _run_stage(self, plan: Plan, stages: Sequence[Stage], stage: Stage, variant: RunFolder) -> None:
        folder = stage.folder(variant.path)
        if isinstance(stage.step, Training):
            folder.mkdir(parents=True, exist_ok=True)
            store_splits(folder, self.data)
            config = self._config(plan, stage, self._start(stages, stage, variant))
            if not self.train(folder, config):
                raise UserError(f"Stopped. The same command resumes {variant.path}.")
            return
        try:
            if isinstance(stage.step, Quantize):
                self._quantize(stage.step, stages, variant)
            else:
                self._change_model(stages, stage, variant)
        except UserError:
            only_exports = all(isinstance(each.step, Quantize) for each in stages)
            discard_untouched(variant, *([variant.model_folder.name] if only_exports else []))
            raise

    def _change_model(self, stages: Sequence[Stage], stage: Stage, variant: RunFolder) -> None:
        """Change the model of the previous stage and write it as a model folder, through a temporary folder."""
        folder = stage.folder(variant.path)
        folder = variant.model_folder if stage.place == OWN else folder
        if (folder / "config.json").is_file():
            return
        with _locked(variant.path):
            loaded = read_origin(self._start(stages, stage, variant), "compress")
            done = self.operations.apply(stage.step, loaded)
            for layer, reason in (done.get("skipped") or {}).items():
                self.report(f"  not pruned: {layer}: {reason}")
            self.report(f"  {done['summary']}")
            folder.parent.mkdir(parents=True, exist_ok=True)
            card = f"Made from {self.parent.name}: {stage.step.description}.\n"
            save_model_folder(folder, loaded.classifier, loaded.specs, loaded.facts, card=card)

    def _quantize(self, step: Quantize, stages: Sequence[Stage], variant: RunFolder) -> None:
        with _locked(variant.path):
            if not (variant.model_folder / "config.json").is_file():
                loaded = read_origin(self.parent.run.path, "compress")
                card = f"The model of {self.parent.name}.\n"
                save_model_folder(variant.model_folder, loaded.classifier, loaded.specs, loaded.facts, card=card)
            folder = export_path(variant, step, has_qat(stages))
            if not (folder / "export.json").is_file():
                given = {k: v for k, v in step.to_spec().items() if k != "name"}
                quantize_run(variant.path, data=self.data, name=folder.name, **given)

    def _finish(self, plan: Plan, stages: Sequence[Stage], variant: RunFolder) -> None:
        """Write the predictions and costs of the result, its comparison with the run, and the report."""
        with _locked(variant.path):
            exports = [s.step for s in stages if isinstance(s.step, Quantize)]
            networks = [s for s in stages if not isinstance(s.step, Quantize)]
            trained = bool(networks) and isinstance(networks[-1].step, Training)
            product = export_path(variant, exports[-1], has_qat(stages)) if exports else None
            if product is not None or not trained:
                source = product or variant.model_folder
                self._evaluate(variant, source, exports[-1] if exports else None)
            loaded = read_model_folder(variant.model_folder)
            costs, parent_costs = (self.operations.costs(each.classifier) for each in (loaded, self.dense))
            if product is not None:
                update_summary(variant, {"export": product.relative_to(variant.path).as_posix()})
            update_summary(variant, {"status": "finished", "parameters": costs["parameters"]})
            difference = difference_to_parent(variant, self.parent.run, costs, parent_costs, product)
            done = {
                "parent": self.parent.name,
                "variant": plan.name,
                "steps": [step.description for step in plan.steps],
            }
            runtime, precision = _runtime(exports[-1] if exports else None)
            latency = compare_latency(product or loaded, self.dense, self.operations.images, runtime, precision)
            update_summary(variant, {KEY: {**done, **difference, "latency": latency}})
            if plan.max_drop is not None:
                evaluate_budget(variant, plan.max_drop)
            self._write_report(variant)

    def _write_report(self, variant: RunFolder) -> None:
        write_report(variant, images=make_image_loader(self.data) if hasattr(self.data, "load_images") else None)

    def _evaluate(self, variant: RunFolder, source: Path, step: Quantize | None) -> None:
        runtime, precision = _runtime(step)
        with open_runtime(source, runtime, threads=torch.get_num_threads(), precision=precision) as network:
            for split in ("val", "test"):
                found = predict_split(self.data, split, network)
                if found is not None:
                    self.report(f"  {split}: accuracy {found.accuracy:.4f} on {len(found):,} images")
                    record_predictions(variant, split, found)

    # ---------------------------------------------------------------- inputs of a stage

    def _start(self, stages: Sequence[Stage], stage: Stage, variant: RunFolder) -> str:
        """Return the folder of the model of the previous stage, or the run folder for the first stage."""
        before = [each for each in stages[: stages.index(stage)] if not isinstance(each.step, Quantize)]
        if not before:
            return str(self.parent.run.path)
        return str(before[-1].folder(variant.path))

    def _config(self, plan: Plan, stage: Stage, start: str) -> Config:
        assert isinstance(stage.step, Training)
        root, experiment = self.parent.place(plan.name)
        config = training_config(
            self.parent.run.config, stage.step, start, str(self.parent.run.path), stage.mask, stage.is_masked
        )
        return {"experiment": experiment, "runs": root, **config}


def required_packages(step: CompressionStep) -> tuple[tuple[str, str], ...]:
    """Return the packages that a step requires, each with its extra."""
    if isinstance(step, Quantize):
        return quantization_packages(step.to, step.runtime)
    return _PACKAGES.get(type(step), ())


def has_qat(stages: Sequence[Stage]) -> bool:
    """Return True if the stages include quantization-aware training."""
    return any(isinstance(stage.step, Qat) for stage in stages)


def export_path(variant: RunFolder, step: Quantize, trained: bool) -> Path:
    """Return the folder of the export of a step, which may not exist yet."""
    return variant.exports / ("onnx-int8-qat" if trained else f"{step.runtime}-{step.to}")


def _runtime(step: Quantize | None) -> tuple[str, str | None]:
    """Return the runtime of the result of a plan and its precision."""
    if step is None:
        return "torch", None
    return step.runtime, "bf16" if step.to == "bf16" else None


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    lock = RunLock(folder)
    try:
        yield
    finally:
        lock.release()
