"""Model soups: the mean of the weights of trained networks, as a run folder of its own."""

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
from imgrec.errors import UserError
from imgrec.export import open_runtime, save_model_folder
from imgrec.models import Classifier
from imgrec.optim.averaging import mean_state
from imgrec.reports.report import write_report
from imgrec.reports.soup_section import KEY, zeros_note
from imgrec.runs.data import DATA, images_of, store_splits
from imgrec.runs.environment import describe_environment
from imgrec.runs.evaluation import keep_predictions, predict_split
from imgrec.runs.folder import CONFIG, ENVIRONMENT, RunFolder, check_writable, create_run_folder, find_runs
from imgrec.runs.lock import RunLock
from imgrec.runs.predictions import Predictions
from imgrec.runs.summary import update_summary, write_json
from imgrec.stats.paired import discordant, paired_bootstrap
from imgrec.studies.compression.variant import place_beside, reference
from imgrec.studies.soup.candidates import find_ingredients, refuse_different, shared_data
from imgrec.studies.soup.sparsity import lost_zeros
from imgrec.utils import yaml
from imgrec.utils.paths import write_error, write_text
from imgrec.utils.seeding import position_seed, run_seed
from imgrec.utils.signature import check_type
from imgrec.utils.terminal import print

Method = Literal["greedy", "uniform"]
Split = Literal["val", "test"]
SPLITS: tuple[Split, ...] = ("val", "test")
SOUPS = "soups"
_LEVEL = 0.95


def greedy(order: Sequence[int], score: Callable[[Sequence[int]], float]) -> list[int]:
    """Which ingredients a greedy soup has: from the best on, each that does not make the soup worse.

    Args:
        order: the ingredients, the best one alone first.
        score: how good the soup of some ingredients is; higher is better.

    Source: Wortsman et al. 2022, arXiv 2203.05482, recipe 1.

    >>> worth = {(2,): 0.8, (2, 0): 0.9, (2, 0, 1): 0.85}
    >>> greedy([2, 0, 1], lambda kept: worth[tuple(kept)])
    [2, 0]
    """
    kept, best = [order[0]], score(order[:1])
    for candidate in order[1:]:
        if (found := score([*kept, candidate])) >= best:
            kept, best = [*kept, candidate], found
    return kept


class Soup:
    """Averages the weights of trained networks; the soup is a run folder beside the best of them.

    Every network is judged anew, all in the same way. What is chosen is chosen by the validation images.

    A weight of the soup is zero if it is zero in all of its networks. Pruned networks with different masks lose zeros;
    the shares before and after are then printed, and are in the summary and the report.

    Args:
        given: run folders, checkpoints in run folders, or folders of runs.
        method: ``greedy`` adds networks in the order of their validation accuracy, each that does not lower that of
            the soup; ``uniform`` takes all.
        batch_norm: how many training images, in whole batches, the statistics of batch norms are estimated on anew, for
            the weights that came out; 0 averages the statistics, too. Those that are the same in all networks stay.
        device: where the networks are judged: ``auto``, ``cpu`` or ``cuda``.
        say: is told what happens.

    Raises:
        UserError: networks that cannot be averaged, or data that is not at hand; nothing was written then.

    Source: Wortsman et al. 2022, "Model soups: averaging weights of multiple fine-tuned models improves accuracy
    without increasing inference time", arXiv 2203.05482; the statistics: Izmailov et al. 2018, "Averaging weights
    leads to wider optima and better generalization", arXiv 1803.05407.
    """

    def __init__(
        self,
        given: Sequence[str | Path | RunFolder],
        method: Method = "greedy",
        batch_norm: int = 1024,
        device: str = "auto",
        say: Callable[[str], None] = print,
    ) -> None:
        check_type(method, Literal[get_args(Method)], "method")
        if batch_norm < 0:
            raise UserError(f"batch_norm: expected a number of training images, 0 or more, got {batch_norm}")
        self.method, self.batch_norm, self.say = method, batch_norm, say
        self.device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        self.ingredients = find_ingredients(given)
        refuse_different(self.ingredients)
        self.data = shared_data(self.ingredients)
        self._vessel = copy.deepcopy(self.ingredients[0].loaded.classifier)
        self._filled: tuple[int, ...] = ()
        self._said: dict[tuple[tuple[int, ...], Split], Predictions | None] = {}

    def run(self) -> RunFolder:
        """Make the soup; one that was made of the same networks in the same way is kept as it is."""
        pl.seed_everything(int(self.ingredients[0].run.config.get("seed_everything", 0)), verbose=False)
        if (done := self._find()) is not None:
            self.say(f"is finished: {done.path}")
            return done
        check_writable(*place_beside(self.ingredients[0].run, SOUPS, self.method))
        alone = [self._judge([i]) for i in range(len(self.ingredients))]
        order = sorted(range(len(alone)), key=lambda i: -alone[i])
        kept = greedy(order, self._judge) if self.method == "greedy" else order
        self._judge(kept)
        return self._write(order[0], kept)

    # ---------------------------------------------------------------- the mean

    def fill(self, kept: Sequence[int]) -> Classifier:
        """The one network of the study, with the mean of some ingredients' weights in it."""
        if tuple(kept) == self._filled:
            return self._vessel
        self._filled = tuple(kept)
        states = [self.ingredients[i].state for i in kept]
        self._vessel.load_state_dict(mean_state(states))
        if len(states) > 1 and self.batch_norm:
            layers = moving_statistics(self._vessel, states)
            with torch.random.fork_rng(devices=[torch.cuda.current_device()] if self.device != "cpu" else []):
                torch.manual_seed(position_seed(run_seed(), "soup"))  # what dropout draws is the same for every soup
                settle(self._vessel.to(self.device), layers, self._batches())
        return self._vessel

    def _batches(self) -> Iterator[Tensor]:
        """The first training images of an epoch, as training sees them; whole batches, for each counts the same."""
        left = self.batch_norm
        for batch in self.data.train_dataloader():
            seen = self.data.augment(batch) if hasattr(self.data, "augment") else batch
            yield seen.images.to(self.device)
            left -= len(seen.images)
            if left <= 0:
                return

    # ---------------------------------------------------------------- how good it is

    def _judge(self, kept: Sequence[int]) -> float:
        """The validation accuracy of the mean of some ingredients."""
        new = (tuple(kept), "val") not in self._said
        said = self._predict(kept, "val")
        assert said is not None, "a data module has validation images"
        if new:
            name = self.ingredients[kept[-1]].name
            what = f"the mean of {len(kept)}, the last of them {name}" if len(kept) > 1 else name
            self.say(f"validation {100 * said.accuracy:6.2f} %   {what}")
        return said.accuracy

    def _predict(self, kept: Sequence[int], split: Split) -> Predictions | None:
        key = (tuple(kept), split)
        if key not in self._said:
            facts, threads = self.ingredients[0].loaded.facts, torch.get_num_threads()
            with open_runtime(self.fill(kept), "torch", threads, self.device, facts=facts) as network:
                self._said[key] = predict_split(self.data, split, network)
        return self._said[key]

    # ---------------------------------------------------------------- the run folder

    @property
    def _recipe(self) -> dict[str, Any]:
        """What a soup is known by."""
        weights = sorted(each.weights for each in self.ingredients)
        return {"method": self.method, "batch_norm": self.batch_norm, "weights": weights}

    def _find(self) -> RunFolder | None:
        for ingredient in self.ingredients:
            root, experiment = place_beside(ingredient.run, SOUPS, self.method)
            for path in find_runs(Path(root) / experiment, depth=1):
                run = RunFolder(path)
                if (run.environment.get(KEY) or {}).get("recipe") == self._recipe and KEY in run.summary:
                    return run
        return None

    def _write(self, best: int, kept: Sequence[int]) -> RunFolder:
        parent = self.ingredients[best]
        root, experiment = place_beside(parent.run, SOUPS, self.method)
        said = {split: [self._predict([i], split) for i in range(len(self.ingredients))] for split in SPLITS}
        ours = {split: self._predict(kept, split) for split in SPLITS}
        for split, found in ours.items():
            if found is not None:
                self.say(f"{split}: accuracy {found.accuracy:.4f} on {len(found):,} images")
        classifier = self.fill(kept).cpu()
        zeros = lost_zeros([self.ingredients[i].state for i in kept], classifier.state_dict())
        if zeros is not None:
            self.say(zeros_note(zeros))
        config = {**parent.run.config, "experiment": experiment, "runs": root}
        folder = create_run_folder(root, experiment)
        lock = RunLock(folder)
        try:
            environment = describe_environment(
                seed=config.get("seed_everything"), fingerprint=parent.run.environment.get(DATA), experiment=experiment
            )
            made_of = [reference(each.run, folder, each.weights) for each in self.ingredients]
            own = {
                "parent": made_of[best],
                "variant": f"{self.method} soup",
                KEY: {"recipe": self._recipe, "ingredients": made_of},
            }
            write_text(folder / CONFIG, yaml.dump(config))
            write_json(folder / ENVIRONMENT, environment | own)
            store_splits(folder, self.data)
            run = RunFolder(folder)
            self.say(f"run {folder}")
            names = ", ".join(self.ingredients[i].name for i in kept)
            loaded = parent.loaded
            card = f"The mean of the weights of {len(kept)} networks: {names}.\n"
            save_model_folder(run.model_folder, classifier, loaded.specs, loaded.facts, card=card)
            for split in SPLITS:
                if (found := ours[split]) is not None:
                    keep_predictions(run, split, found)
            update_summary(run, {"status": "finished", "parameters": count_parameters(classifier)})
            update_summary(run, {KEY: self._figures(best, kept, said, ours) | ({"zeros": zeros} if zeros else {})})
            write_report(run, images=images_of(self.data) if hasattr(self.data, "load_images") else None)
        except BaseException as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise write_error(folder, error) or error from error.__cause__
        finally:
            lock.release()
        return run

    def _figures(
        self,
        best: int,
        kept: Sequence[int],
        said: Mapping[Split, Sequence[Predictions | None]],
        ours: Mapping[Split, Predictions | None],
    ) -> dict[str, Any]:
        rows = []
        for i, ingredient in enumerate(self.ingredients):
            splits = {
                split: _paired(mine, theirs)
                for split, mine in ours.items()
                if mine is not None and (theirs := said[split][i]) is not None
            }
            rows.append({"name": ingredient.name, "kept": i in kept, "best": i == best, "splits": splits})
        accuracies = {split: found.accuracy for split, found in ours.items() if found is not None}
        return {"method": self.method, "batch_norm": self.batch_norm, "accuracy": accuracies, "ingredients": rows}


@torch.no_grad()
def settle(classifier: nn.Module, layers: Mapping[str, nn.Module], batches: Iterator[Tensor]) -> None:
    """Estimate the statistics of some batch norms anew on images, and leave all others as they are.

    Args:
        classifier: on the device of the images.
        layers: by name; see :func:`moving_statistics`.
        batches: of images, as training sees them.
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
    """The batch norms, by name, whose statistics are not the same in all of some state dicts: those not frozen."""
    found: dict[str, nn.Module] = {}
    for path, layer in classifier.named_modules():
        if isinstance(layer, _BatchNorm) and layer.running_mean is not None:
            names = [f"{path}.running_mean", f"{path}.running_var"]
            if any(not torch.equal(states[0][name], other[name]) for other in states[1:] for name in names):
                found[path] = layer
    return found


def _paired(ours: Predictions, theirs: Predictions) -> dict[str, Any]:
    """The accuracies of the soup and of an ingredient on the same images, with the interval of their difference."""
    right, before = ours.correct, theirs.correct
    low, high = paired_bootstrap(right, before, level=_LEVEL)
    won, lost = discordant(right, before)
    difference = ours.accuracy - theirs.accuracy
    return {
        "images": len(ours), "accuracy": theirs.accuracy, "difference": difference,
        "low": low, "high": high, "won": won, "lost": lost,
    }  # fmt: skip
