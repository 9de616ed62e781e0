"""Model soups: the mean of the weights of several trained models, in a separate run folder."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn

from imgrec.compress.profiling import count_parameters
from imgrec.export import open_runtime, save_model_folder
from imgrec.models import Classifier
from imgrec.optim.averaging import mean_state
from imgrec.reports.report import write_report
from imgrec.reports.soup_section import KEY, zeros_note
from imgrec.runs.data import FINGERPRINT, make_image_loader, store_splits
from imgrec.runs.environment import describe_environment
from imgrec.runs.evaluation import predict_split, record_predictions
from imgrec.runs.folder import CONFIG, ENVIRONMENT, RunFolder, check_writable, create_run_folder, find_runs
from imgrec.runs.lock import RunLock
from imgrec.runs.predictions import Predictions
from imgrec.runs.summary import update_summary, write_json
from imgrec.stats.paired import discordant, paired_bootstrap
from imgrec.studies.compression.variant import derived_place, parent_entry
from imgrec.studies.soup.candidates import check_candidates, load_candidates, shared_data
from imgrec.studies.soup.sparsity import lost_zeros
from imgrec.utils import yaml
from imgrec.utils.paths import write_text
from imgrec.utils.ranges import NonNegativeInt, check_ranges
from imgrec.utils.seeding import position_seed, run_seed
from imgrec.utils.signature import check_type
from imgrec.utils.terminal import print
from imgrec.utils.write_errors import write_error

Method = Literal["greedy", "uniform"]
Split = Literal["val", "test"]
SPLITS: tuple[Split, ...] = ("val", "test")
SOUPS = "soups"
_LEVEL = 0.95


def greedy_soup(order: Sequence[int], score: Callable[[Sequence[int]], float]) -> list[int]:
    """Select the candidates of a greedy soup: from the best, each that does not decrease the score of the soup.

    Args:
        order: Candidates, sorted by their scores, the best first.
        score: Function that returns the score of the soup of some candidates. Higher is better.

    Source: Wortsman et al. 2022, arXiv 2203.05482, recipe 1.

    Example:
        >>> scores = {(2,): 0.8, (2, 0): 0.9, (2, 0, 1): 0.85}
        >>> greedy_soup([2, 0, 1], lambda selected: scores[tuple(selected)])
        [2, 0]
    """
    kept, best = [order[0]], score(order[:1])
    for candidate in order[1:]:
        if (found := score([*kept, candidate])) >= best:
            kept, best = [*kept, candidate], found
    return kept


class Soup:
    """Study that averages the weights of trained models into a run folder next to the best of them.

    Every model is evaluated again under the same conditions. The models are selected on the validation images only.

    A weight of the soup is zero if it is zero in all of its models. Pruned models with different masks lose zeros. The
    shares of zeros before and after are then printed and stored in the summary and in the report.

    Args:
        paths: Run folders, checkpoints in run folders, or folders of runs.
        method: ``greedy`` adds models in the order of their validation accuracy if they do not decrease the accuracy
            of the soup. ``uniform`` averages all models. Defaults to ``greedy``.
        batch_norm: Number of training images, rounded up to whole batches, for new statistics of batch normalization.
            0 averages the statistics. Statistics that are equal in all models are kept. Defaults to 1024.
        device: Device of the evaluation: ``auto``, ``cpu`` or ``cuda``. Defaults to ``auto``.
        report: Function that receives each line of progress. Defaults to ``print``.

    Raises:
        UserError: If the models cannot be averaged, or if their data is not available. No file is written.

    Sources: Wortsman et al. 2022, "Model soups: averaging weights of multiple fine-tuned models improves accuracy
    without increasing inference time", arXiv 2203.05482. Izmailov et al. 2018, "Averaging weights leads to wider optima
    and better generalization", arXiv 1803.05407 (the statistics).
    """

    @check_ranges
    def __init__(
        self,
        paths: Sequence[str | Path | RunFolder],
        method: Method = "greedy",
        batch_norm: NonNegativeInt = 1024,
        device: str = "auto",
        report: Callable[[str], None] = print,
    ) -> None:
        check_type(method, Literal[get_args(Method)], "method")
        self.method, self.batch_norm, self.report = method, batch_norm, report
        self.device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        self.candidates = load_candidates(paths)
        check_candidates(self.candidates)
        self.data = shared_data(self.candidates)
        self._model = copy.deepcopy(self.candidates[0].loaded.classifier)
        self._averaged: tuple[int, ...] = ()
        self._predictions: dict[tuple[tuple[int, ...], Split], Predictions | None] = {}

    def run(self) -> RunFolder:
        """Make the soup, or return the existing one of the same models, method and ``batch_norm``."""
        pl.seed_everything(int(self.candidates[0].run.config.get("seed_everything", 0)), verbose=False)
        if (done := self._find()) is not None:
            self.report(f"is finished: {done.path}")
            return done
        check_writable(*derived_place(self.candidates[0].run, SOUPS, self.method))
        scores = [self._score([i]) for i in range(len(self.candidates))]
        order = sorted(range(len(scores)), key=lambda i: -scores[i])
        kept = greedy_soup(order, self._score) if self.method == "greedy" else order
        self._score(kept)
        return self._write(order[0], kept)

    # ---------------------------------------------------------------- the mean

    def average(self, selected: Sequence[int]) -> Classifier:
        """Load the mean of the weights of some candidates into the shared model and return it."""
        if tuple(selected) == self._averaged:
            return self._model
        self._averaged = tuple(selected)
        states = [self.candidates[i].state for i in selected]
        self._model.load_state_dict(mean_state(states))
        if len(states) > 1 and self.batch_norm:
            layers = moving_statistics(self._model, states)
            with torch.random.fork_rng(devices=[torch.cuda.current_device()] if self.device != "cpu" else []):
                torch.manual_seed(position_seed(run_seed(), "soup"))  # dropout masks are the same for every soup
                update_batch_norm(self._model.to(self.device), layers, self._batches())
        return self._model

    def _batches(self) -> Iterator[Tensor]:
        """Yield the first training batches of an epoch, augmented and whole, because each has the same weight."""
        left = self.batch_norm
        for batch in self.data.train_dataloader():
            augmented = self.data.augment(batch) if hasattr(self.data, "augment") else batch
            yield augmented.images.to(self.device)
            left -= len(augmented.images)
            if left <= 0:
                return

    # ---------------------------------------------------------------- evaluation

    def _score(self, selected: Sequence[int]) -> float:
        """Return the validation accuracy of the mean of some candidates."""
        is_new = (tuple(selected), "val") not in self._predictions
        found = self._predict(selected, "val")
        assert found is not None, "a data module has validation images"
        if is_new:
            name = self.candidates[selected[-1]].name
            title = f"the mean of {len(selected)}, the last of them {name}" if len(selected) > 1 else name
            self.report(f"validation {100 * found.accuracy:6.2f} %   {title}")
        return found.accuracy

    def _predict(self, selected: Sequence[int], split: Split) -> Predictions | None:
        key = (tuple(selected), split)
        if key not in self._predictions:
            facts, threads = self.candidates[0].loaded.facts, torch.get_num_threads()
            with open_runtime(self.average(selected), "torch", threads, self.device, facts=facts) as network:
                self._predictions[key] = predict_split(self.data, split, network)
        return self._predictions[key]

    # ---------------------------------------------------------------- the run folder

    @property
    def _recipe(self) -> dict[str, Any]:
        """Properties that identify a soup."""
        weights = sorted(each.weights for each in self.candidates)
        return {"method": self.method, "batch_norm": self.batch_norm, "weights": weights}

    def _find(self) -> RunFolder | None:
        for candidate in self.candidates:
            root, experiment = derived_place(candidate.run, SOUPS, self.method)
            for path in find_runs(Path(root) / experiment, depth=1):
                run = RunFolder(path)
                if (run.environment.get(KEY) or {}).get("recipe") == self._recipe and KEY in run.summary:
                    return run
        return None

    def _write(self, best: int, kept: Sequence[int]) -> RunFolder:
        parent = self.candidates[best]
        root, experiment = derived_place(parent.run, SOUPS, self.method)
        theirs = {split: [self._predict([i], split) for i in range(len(self.candidates))] for split in SPLITS}
        ours = {split: self._predict(kept, split) for split in SPLITS}
        for split, found in ours.items():
            if found is not None:
                self.report(f"{split}: accuracy {found.accuracy:.4f} on {len(found):,} images")
        classifier = self.average(kept).cpu()
        zeros = lost_zeros([self.candidates[i].state for i in kept], classifier.state_dict())
        if zeros is not None:
            self.report(zeros_note(zeros))
        config = {**parent.run.config, "experiment": experiment, "runs": root}
        folder = create_run_folder(root, experiment)
        lock = RunLock(folder)
        try:
            environment = describe_environment(
                seed=config.get("seed_everything"),
                fingerprint=parent.run.environment.get(FINGERPRINT),
                experiment=experiment,
            )
            entries = [parent_entry(each.run, folder, each.weights) for each in self.candidates]
            origin = {
                "parent": entries[best],
                "variant": f"{self.method} soup",
                KEY: {"recipe": self._recipe, "ingredients": entries},
            }
            write_text(folder / CONFIG, yaml.dump(config))
            write_json(folder / ENVIRONMENT, environment | origin)
            store_splits(folder, self.data)
            run = RunFolder(folder)
            self.report(f"run {folder}")
            names = ", ".join(self.candidates[i].name for i in kept)
            loaded = parent.loaded
            card = f"The mean of the weights of {len(kept)} models: {names}.\n"
            save_model_folder(run.model_folder, classifier, loaded.specs, loaded.facts, card=card)
            for split in SPLITS:
                if (found := ours[split]) is not None:
                    record_predictions(run, split, found)
            update_summary(run, {"status": "finished", "parameters": count_parameters(classifier)})
            update_summary(run, {KEY: self._comparison(best, kept, theirs, ours) | ({"zeros": zeros} if zeros else {})})
            write_report(run, images=make_image_loader(self.data) if hasattr(self.data, "load_images") else None)
        except BaseException as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise write_error(folder, error) or error from error.__cause__
        finally:
            lock.release()
        return run

    def _comparison(
        self,
        best: int,
        kept: Sequence[int],
        theirs: Mapping[Split, Sequence[Predictions | None]],
        ours: Mapping[Split, Predictions | None],
    ) -> dict[str, Any]:
        rows = []
        for i, candidate in enumerate(self.candidates):
            splits = {
                split: _compare_paired(mine, other)
                for split, mine in ours.items()
                if mine is not None and (other := theirs[split][i]) is not None
            }
            rows.append({"name": candidate.name, "kept": i in kept, "best": i == best, "splits": splits})
        accuracies = {split: found.accuracy for split, found in ours.items() if found is not None}
        return {"method": self.method, "batch_norm": self.batch_norm, "accuracy": accuracies, "ingredients": rows}


@torch.no_grad()
def update_batch_norm(classifier: nn.Module, layers: Mapping[str, nn.Module], batches: Iterator[Tensor]) -> None:
    """Recompute the statistics of some batch normalization layers on images. The others do not change.

    Args:
        classifier: Model on the device of the images.
        layers: Layers by name, the result of :func:`moving_statistics`.
        batches: Augmented training images.
    """
    if not layers:
        return
    kept = {
        name: value.clone()
        for path, layer in classifier.named_modules()
        if isinstance(layer, _BatchNorm) and path not in layers
        for name, value in layer.named_buffers(prefix=path)
    }
    update_bn(batches, classifier)
    buffers = dict(classifier.named_buffers())
    for name, value in kept.items():
        buffers[name].copy_(value)


def moving_statistics(classifier: nn.Module, states: Sequence[Mapping[str, Tensor]]) -> dict[str, nn.Module]:
    """Return the batch normalization layers, by name, whose statistics differ between state dicts."""
    found: dict[str, nn.Module] = {}
    for path, layer in classifier.named_modules():
        if isinstance(layer, _BatchNorm) and layer.running_mean is not None:
            names = [f"{path}.running_mean", f"{path}.running_var"]
            if any(not torch.equal(states[0][name], other[name]) for other in states[1:] for name in names):
                found[path] = layer
    return found


def _compare_paired(ours: Predictions, theirs: Predictions) -> dict[str, Any]:
    """Return the accuracy of a candidate and its difference to the soup, with an interval, on the same images."""
    right, before = ours.correct, theirs.correct
    low, high = paired_bootstrap(right, before, level=_LEVEL)
    won, lost = discordant(right, before)
    difference = ours.accuracy - theirs.accuracy
    return {
        "images": len(ours), "accuracy": theirs.accuracy, "difference": difference,
        "low": low, "high": high, "won": won, "lost": lost,
    }  # fmt: skip
