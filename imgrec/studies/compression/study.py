"""From a trained run and a plan to a smaller, faster variant: a run folder of its own, compared with the run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import pytorch_lightning as pl
import torch

from imgrec.compress.plan import Plan, clash
from imgrec.compress.steps import CompressionStep, Prune, Qat, Quantize, Training
from imgrec.compress.surgery import surgery_of
from imgrec.errors import UserError
from imgrec.export import Loaded, read_model_folder, read_origin, save_model_folder
from imgrec.export.runtimes.registry import open_runtime
from imgrec.reports.compression_section import KEY
from imgrec.reports.report import write_report
from imgrec.runs.data import data_of, images_of, store_splits
from imgrec.runs.evaluation import keep_predictions, predict_split
from imgrec.runs.folder import RunFolder
from imgrec.runs.lock import RunLock
from imgrec.runs.summary import update_summary
from imgrec.studies.compression.comparison import difference_to_parent
from imgrec.studies.compression.finetune_config import Config, training_config
from imgrec.studies.compression.latency import latency_beside
from imgrec.studies.compression.operations import Operations
from imgrec.studies.compression.plan_budget import check_parent, judge_budget
from imgrec.studies.compression.quantize import needed_to_quantize, quantize_run
from imgrec.studies.compression.stages import OWN, Stage, stages_of
from imgrec.studies.compression.variant import Parent, discard_untouched, find_variant, is_done, make_variant
from imgrec.utils.optional import require
from imgrec.utils.terminal import print

Train = Callable[[Path, Config], bool]
"""Trains what a config says in a folder, or goes on there; false where it was stopped before its end."""

_NEEDED: dict[type[CompressionStep], tuple[tuple[str, str], ...]] = {
    Prune: (("torch_pruning", "compress"),),
    Qat: (("onnx", "export"), ("onnxruntime", "export")),
}


class Compression:
    """Carries out plans on one trained run; each makes a run folder beside it, under ``compressed/<variant>/``.

    What was done already of a variant is kept: the same call goes on where one before it stopped, a training in the
    middle of an epoch, too; a variant that is finished stays as it is.

    Args:
        run: the run folder.
        train: see :data:`Train`.
        check: refuses a config of a training before anything is done.
        say: is told what happens.

    Raises:
        UserError: the run is not trained to its end, trains at the moment, or its data is not at hand.
    """

    def __init__(
        self,
        run: RunFolder | str | Path,
        train: Train,
        check: Callable[[Config], None] = lambda config: None,
        say: Callable[[str], None] = print,
    ) -> None:
        self.parent = Parent(run if isinstance(run, RunFolder) else RunFolder(run))
        self.train, self.check, self.say = train, check, say
        self.data = data_of(self.parent.run)
        self.done: list[RunFolder] = []

    @cached_property
    def dense(self) -> Loaded:
        """The run's own network."""
        return read_origin(self.parent.run.path, "compress")

    @cached_property
    def operations(self) -> Operations:
        """What changes a network without training it."""
        return Operations(self.data, self.dense.classifier)

    def run(self, plans: Sequence[Plan]) -> list[RunFolder]:
        """Carry out plans, and return their run folders; those that are complete are in :attr:`done` at any time.

        A plan with ``max_drop`` is judged after its last step. A variant that lost more is kept and marked; see
        :func:`imgrec.studies.compression.plan_budget.raise_if_exceeded`. A step that quantizes with a budget of its
        own writes
        nothing if that does not hold.

        Raises:
            UserError: If two plans have one name, or if one cannot be carried out on this run. Nothing was done then.
            BudgetExceededError: If a step loses more than its own budget. Its export is not written.
            WriteError: If a file cannot be written.
        """
        self.refuse(plans)
        for plan in plans:
            self.done.append(self._carry_out(plan))
        return self.done

    def refuse(self, plans: Sequence[Plan]) -> None:
        """Raise what can be told of the plans before anything is done.

        Raises:
            UserError: two have one name, a package is missing, or the run's recipe cannot be trained so.
        """
        names = [plan.name for plan in plans]
        for name in names:
            if names.count(name) > 1:
                raise UserError(f'two variants are called "{name}"; name them in the plan')
        trained = any(step["step"] == "qat" for step in surgery_of(self.dense.classifier))
        if any(plan.max_drop is not None for plan in plans):
            check_parent(self.parent.run)
        for plan in plans:
            for step in plan.steps:
                if trained and (reason := clash(Qat(), step)) is not None:
                    raise UserError(f"{step.name}: the run {self.parent.run.path} was trained for int8: {reason}")
                for module, extra in needed(step):
                    require(module, extra, step.name)
            for stage in stages_of(plan):
                if isinstance(stage.step, Training):
                    self.check(self._config(plan, stage, str(self.parent.run.path)))

    def preview(self, plan: Plan) -> list[str]:
        """What carrying out a plan would do, in lines."""
        found = find_variant(self.parent, plan)
        root, experiment = self.parent.place(plan.name)
        where = found.path if found else Path(root) / experiment / "<time>"
        state = "is finished" if found and is_done(found) else "goes on" if found else "is new"
        lines = [f"{plan.name}: {state}: {where}"]
        for number, stage in enumerate(stages_of(plan), 1):
            lines.append(f"  {number}. {stage.said}")
            if isinstance(stage.step, Training):
                config = self._config(plan, stage, "")
                lr = config["model"]["init_args"]["optimizer"]["lr"]
                lines[-1] += f"; learning rate {lr:g}"
        if plan.max_drop is not None:
            lines.append(f"  budget: the variant may lose {plan.max_drop:g} points against the run, after all steps")
        return lines

    # ---------------------------------------------------------------- one variant

    def _carry_out(self, plan: Plan) -> RunFolder:
        found = find_variant(self.parent, plan)
        if found is not None and is_done(found):
            self.say(f"{plan.name}: is finished: {found.path}")
            before = found.summary[KEY]
            if plan.max_drop is not None:
                judge_budget(found, plan.max_drop)
            if found.summary[KEY] != before:
                self._report(found)
            return found
        stages = stages_of(plan)
        if found is None:
            found = make_variant(self.parent, plan)
            store_splits(found.path, self.data)
        pl.seed_everything(int(self.parent.run.config.get("seed_everything", 0)), verbose=False)
        for number, stage in enumerate(stages, 1):
            self.say(f"{plan.name}, {number} of {len(stages)}: {stage.said}")
            self._do(plan, stages, stage, found)
        self._finish(plan, stages, found)
        return found

    def _do(self, plan: Plan, stages: Sequence[Stage], stage: Stage, variant: RunFolder) -> None:
        folder = stage.folder(variant.path)
        if isinstance(stage.step, Training):
            folder.mkdir(parents=True, exist_ok=True)
            store_splits(folder, self.data)
            config = self._config(plan, stage, self._start(stages, stage, variant))
            if not self.train(folder, config):
                raise UserError(f"stopped; the same command goes on with {variant.path}")
            return
        try:
            if isinstance(stage.step, Quantize):
                self._quantize(stage.step, stages, variant)
            else:
                self._operate(stages, stage, variant)
        except UserError:
            only_exports = all(isinstance(each.step, Quantize) for each in stages)
            discard_untouched(variant, *([variant.model_folder.name] if only_exports else []))
            raise

    def _operate(self, stages: Sequence[Stage], stage: Stage, variant: RunFolder) -> None:
        """Change the network of the stage before, and write it as a model folder, which is whole or not there."""
        folder = stage.folder(variant.path)
        folder = variant.model_folder if stage.place == OWN else folder
        if (folder / "config.json").is_file():
            return
        with _locked(variant.path):
            loaded = read_origin(self._start(stages, stage, variant), "compress")
            done = self.operations.apply(stage.step, loaded)
            for layer, why in (done.get("skipped") or {}).items():
                self.say(f"  not pruned: {layer}: {why}")
            self.say(f"  {done['said']}")
            folder.parent.mkdir(parents=True, exist_ok=True)
            card = f"Made from {self.parent.name}: {stage.step.description}.\n"
            save_model_folder(folder, loaded.classifier, loaded.specs, loaded.facts, card=card)

    def _quantize(self, step: Quantize, stages: Sequence[Stage], variant: RunFolder) -> None:
        with _locked(variant.path):
            if not (variant.model_folder / "config.json").is_file():
                loaded = read_origin(self.parent.run.path, "compress")
                card = f"The network of {self.parent.name}.\n"
                save_model_folder(variant.model_folder, loaded.classifier, loaded.specs, loaded.facts, card=card)
            folder = export_folder(variant, step, after_qat(stages))
            if not (folder / "export.json").is_file():
                given = {k: v for k, v in step.to_spec().items() if k != "name"}
                quantize_run(variant.path, data=self.data, name=folder.name, **given)

    def _finish(self, plan: Plan, stages: Sequence[Stage], variant: RunFolder) -> None:
        """Predictions and figures of what came out, beside the run's own; the report; the plan is carried out."""
        with _locked(variant.path):
            exports = [s.step for s in stages if isinstance(s.step, Quantize)]
            networks = [s for s in stages if not isinstance(s.step, Quantize)]
            trained = bool(networks) and isinstance(networks[-1].step, Training)
            product = export_folder(variant, exports[-1], after_qat(stages)) if exports else None
            if product is not None or not trained:
                source = product or variant.model_folder
                self._evaluate(variant, source, exports[-1] if exports else None)
            loaded = read_model_folder(variant.model_folder)
            here, before = (self.operations.figures(each.classifier) for each in (loaded, self.dense))
            if product is not None:
                update_summary(variant, {"export": product.relative_to(variant.path).as_posix()})
            update_summary(variant, {"status": "finished", "parameters": here["parameters"]})
            difference = difference_to_parent(variant, self.parent.run, here, before, product)
            done = {
                "parent": self.parent.name,
                "variant": plan.name,
                "steps": [step.description for step in plan.steps],
            }
            runtime, precision = _runtime(exports[-1] if exports else None)
            latency = latency_beside(product or loaded, self.dense, self.operations.images, runtime, precision)
            update_summary(variant, {KEY: {**done, **difference, "latency": latency}})
            if plan.max_drop is not None:
                judge_budget(variant, plan.max_drop)
            self._report(variant)

    def _report(self, variant: RunFolder) -> None:
        write_report(variant, images=images_of(self.data) if hasattr(self.data, "load_images") else None)

    def _evaluate(self, variant: RunFolder, source: Path, step: Quantize | None) -> None:
        runtime, precision = _runtime(step)
        with open_runtime(source, runtime, threads=torch.get_num_threads(), precision=precision) as network:
            for split in ("val", "test"):
                found = predict_split(self.data, split, network)
                if found is not None:
                    self.say(f"  {split}: accuracy {found.accuracy:.4f} on {len(found):,} images")
                    keep_predictions(variant, split, found)

    # ---------------------------------------------------------------- what it stands on

    def _start(self, stages: Sequence[Stage], stage: Stage, variant: RunFolder) -> str:
        """What a stage starts from: the network of the stage before it, or the run's own."""
        before = [each for each in stages[: stages.index(stage)] if not isinstance(each.step, Quantize)]
        if not before:
            return str(self.parent.run.path)
        return str(before[-1].folder(variant.path))

    def _config(self, plan: Plan, stage: Stage, start: str) -> Config:
        assert isinstance(stage.step, Training)
        root, experiment = self.parent.place(plan.name)
        config = training_config(
            self.parent.run.config, stage.step, start, str(self.parent.run.path), stage.mask, stage.held
        )
        return {"experiment": experiment, "runs": root, **config}


def needed(step: CompressionStep) -> tuple[tuple[str, str], ...]:
    """The packages that a step needs, each with the extra that brings it."""
    return needed_to_quantize(step.to, step.runtime) if isinstance(step, Quantize) else _NEEDED.get(type(step), ())


def after_qat(stages: Sequence[Stage]) -> bool:
    """Whether what is quantized was trained for it."""
    return any(isinstance(stage.step, Qat) for stage in stages)


def export_folder(variant: RunFolder, step: Quantize, trained: bool) -> Path:
    """Where the export of a step stands, or will."""
    return variant.exports / ("onnx-int8-qat" if trained else f"{step.runtime}-{step.to}")


def _runtime(step: Quantize | None) -> tuple[str, str | None]:
    """What the product of a plan runs in, and what that is told to compute in."""
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
