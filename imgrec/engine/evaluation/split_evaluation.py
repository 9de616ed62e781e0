"""Evaluation on a split of a run: ``imgrec.evaluate_split``, ``imgrec validate`` and ``imgrec test``."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from imgrec import trust as policy
from imgrec.engine.config import Config, merge, override
from imgrec.engine.fit import existing_checkpoint
from imgrec.errors import ResourceError, UserError
from imgrec.runs.folder import RunFolder, is_run_folder
from imgrec.trust import Trust
from imgrec.utils.terminal import print

if TYPE_CHECKING:
    from imgrec.engine.experiment import Experiment
    from imgrec.engine.target import EvaluationTarget

Command = Literal["validate", "test"]


@dataclass(frozen=True)
class SplitMetrics:
    """Metrics of one split.

    Args:
        metrics: Metrics by split, for example ``{"test": {"acc": 0.97}}``. Empty in processes other than the first.
        folder: Run folder that the metrics were written to, or the run of an export. ``None`` if nothing was written.
        export: Path and title of the evaluated export. ``None`` for a PyTorch model.
        error: First failure to write a result. Defaults to ``None``.
    """

    metrics: dict[str, dict[str, float]]
    folder: RunFolder | None
    export: str | None = None
    error: ResourceError | None = None


@dataclass(frozen=True)
class SplitEvaluation:
    """Evaluation of a checkpoint that is ready to run.

    Args:
        command: ``validate`` or ``test``.
        experiment: Built experiment.
        checkpoint: Path of the checkpoint.
        target: Run folder or checkpoint with its config. ``None`` if the config was given.
        is_unchanged: True without configs, overrides and a checkpoint of the user. The metrics are then written into
            the run folder.
    """

    command: Command
    experiment: Experiment
    checkpoint: str | None
    target: EvaluationTarget | None
    is_unchanged: bool

    @property
    def split(self) -> str:
        """Name of the split, ``val`` or ``test``."""
        return {"validate": "val"}.get(self.command, self.command)

    def run(self, tta: Any = None, tta_average: Any = "probabilities") -> SplitMetrics:
        """Evaluate the split, and write the metrics and predictions of an unchanged run into its folder.

        Args:
            tta: Views of test-time augmentation. Defaults to none.
            tta_average: Average of the ``probabilities`` or of the ``logits`` of the views.

        Raises:
            UserError: If the checkpoint or the data cannot be used, or if the data has changed since the training.
        """
        from imgrec.callbacks import RunRecorder, TestTimeViews
        from imgrec.engine.training import evaluate_splits
        from imgrec.runs.load import read_checkpoint

        experiment, target = self.experiment, self.target
        if self.checkpoint is None:
            raise UserError(f"{self.command}: expected a run folder or a checkpoint: imgrec {self.command} runs/...")
        content = read_checkpoint(Path(self.checkpoint))
        if tta is not None:
            experiment.trainer.callbacks.append(TestTimeViews(tta, tta_average))
        if target and target.trained:
            _select_images(target.trained, target.config, experiment, self.split)
        elif target:
            _refuse_changed_data(target, experiment, content)
        folder = target.run if target and self.is_unchanged and tta is None else None
        recorder = RunRecorder(folder=folder.path) if folder is not None else None
        if recorder is not None:
            experiment.trainer.callbacks.insert(0, recorder)
        metrics = evaluate_splits(experiment.trainer, experiment.task, experiment.data, self.checkpoint, [self.command])
        error = None if recorder is None else recorder.unwritten.error
        return SplitMetrics(metrics if experiment.trainer.is_global_zero else {}, folder, error=error)


def evaluate_split(
    run: RunFolder | str | Path,
    split: Literal["val", "test"] = "test",
    overrides: Mapping[str, Any] | None = None,
    *,
    checkpoint: str | Path | None = None,
    tta: Any = None,
    tta_average: Literal["probabilities", "logits"] = "probabilities",
    trust: Trust = None,
) -> dict[str, float]:
    """Evaluate a run on its validation or test split and return the metrics by name.

    Without overrides, checkpoint and views, the metrics and predictions are written into the run folder. The commands
    ``imgrec validate`` and ``imgrec test`` call the same code.

    Args:
        run: Run folder or checkpoint.
        split: ``val`` or ``test``. Defaults to ``test``.
        overrides: Values by dotted key, for example ``{"data.batch_size": 256}``. Defaults to none.
        checkpoint: Checkpoint other than the best one of the run. Defaults to none.
        tta: Views of test-time augmentation, for example ``"hflip"``. Defaults to none.
        tta_average: Average of the ``probabilities`` or of the ``logits`` of the views.
        trust: Names of classes and modules that the run may contain in addition to the registries. ``True`` allows
            every name. Defaults to none.

    Raises:
        UserError: If the run or its data cannot be used.

    Example::

        print(imgrec.evaluate_split("runs/digits/quickstart/20261121-143005")["acc"])

    See also: :func:`imgrec.engine.evaluation.evaluate.evaluate` evaluates a model on any other labelled set.
    """
    if split not in ("val", "test"):
        raise UserError(f'split: expected "val" or "test", got {split!r}.')
    command: Command = "validate" if split == "val" else "test"
    path = run.path if isinstance(run, RunFolder) else Path(run)
    with policy.opening(path, trust):
        if (exported := exported_run(path)) is not None:
            found = evaluate_export(command, exported, bool(overrides or checkpoint or tta))
        else:
            prepared = prepare(command, path, (), list((overrides or {}).items()), checkpoint)
            found = prepared.run(policy.allow(tta), tta_average)
    if found.error is not None:
        raise found.error
    return next(iter(found.metrics.values()), {})


def prepare(
    command: Command,
    path: str | Path | None,
    configs: Sequence[Config],
    overrides: Sequence[tuple[str, Any]],
    checkpoint: str | Path | None,
) -> SplitEvaluation:
    """Build the experiment of an evaluation.

    Args:
        command: ``validate`` or ``test``.
        path: Run folder or checkpoint. ``None`` if the config is given.
        configs: Configs that are merged over the config of the run.
        overrides: Dotted keys and values.
        checkpoint: Checkpoint other than the best one of the run.

    Raises:
        UserError: If the config or the checkpoint is invalid.
    """
    from imgrec.engine.experiment import Experiment
    from imgrec.engine.target import find_target

    target = find_target(path) if path is not None else None
    config = target.config if target else {}
    for each in configs:
        config = merge(config, policy.allow(each))
    for key, value in overrides:
        config = override(config, key, policy.allow(value))
    given = existing_checkpoint(checkpoint) or (target.checkpoint if target else None)
    experiment = Experiment(override(config, "model.load_weights", False), bare=True)
    return SplitEvaluation(command, experiment, given, target, not (configs or overrides or checkpoint))


def exported_run(path: str | Path) -> RunFolder | None:
    """Return the run in a folder if its metrics are those of an export, otherwise ``None``."""
    if not is_run_folder(Path(path)):
        return None
    from imgrec.runs.exports import EXPORT_KEY

    run = RunFolder(path)
    return run if run.summary.get(EXPORT_KEY) is not None else None


def evaluate_export(command: Command, run: RunFolder, has_options: bool) -> SplitMetrics:
    """Evaluate the export of a run on a split of the data of the run. The run folder is not changed.

    Raises:
        UserError: If options would change the model or the data.
    """
    if has_options:
        raise UserError(
            f"{command}: the figures of {run.path} are those of its export {run.summary['export']}, which takes no "
            f"options. Give a checkpoint of the run, or {run.path}/model to imgrec predict, for its network in PyTorch."
        )
    import torch

    from imgrec.export.backends import RuntimeBackend
    from imgrec.runs.data import load_run_data
    from imgrec.runs.evaluation import compute_metrics, predict_split
    from imgrec.runs.exports import measured_export, open_export

    folder = measured_export(run)
    assert folder is not None
    split: Literal["val", "test"] = "val" if command == "validate" else "test"
    network, _ = open_export(folder, threads=torch.get_num_threads())
    with network:
        title = f"{folder}: {RuntimeBackend(network).title}"
        found = predict_split(load_run_data(run), split, network)
    if found is None:
        raise UserError(f"the data of the run {run.path} has no images in the split {split}")
    return SplitMetrics({split: compute_metrics(found)}, run, title)


def _select_images(run: RunFolder, config: Config, experiment: Experiment, split: str) -> None:
    """Use the images of the split of the run. With options that select others, warn of training images in them."""
    from imgrec.engine.resolve import resolve
    from imgrec.runs.data import is_other_selection, set_up_run_data

    if not is_other_selection(experiment.config["data"], resolve(config)["data"]):
        set_up_run_data(experiment.data, run)
        return
    stored = run.splits() if hasattr(experiment.data, "split_table") else None
    if stored is None:
        return
    experiment.data.prepare_data()
    experiment.data.setup("test")
    rows = getattr(experiment.data.splits, split)
    if found := stored.trained_on(experiment.data.source, rows):
        print(
            f"warning: the run was trained on {len(found):,} of these {len(rows):,} images ({found[0]}): "
            "the figures are too good",
            file=sys.stderr,
        )


def _refuse_changed_data(target: EvaluationTarget, experiment: Experiment, content: Mapping[str, Any]) -> None:
    """Raise an error if the data of a checkpoint without a run folder has changed, because its split is not stored."""
    from imgrec.engine.resolve import resolve
    from imgrec.runs.data import FINGERPRINT, is_other_selection

    before = content.get("imgrec", {}).get(FINGERPRINT)
    if before is None or is_other_selection(experiment.config["data"], resolve(target.config)["data"]):
        return
    experiment.data.prepare_data()
    experiment.data.setup("test")
    now = getattr(experiment.data, "fingerprint", None)
    if now != before:
        raise UserError(
            f"the data of {target.checkpoint} has changed since it was trained: its fingerprint was {before} and is "
            f"{now} now. Its split cannot be found again without its run folder. imgrec evaluate {target.checkpoint} "
            "DATA evaluates any labelled set"
        )
