"""Model soup of four fine-tuned networks, compared with the best of them and with one fine-tuned four times as long.

The network of cifar10/fast.yaml is trained on 10,000 images of CIFAR-10 for eight epochs. It is then fine-tuned four
times for three epochs. The four runs differ only in order and augmentation of the images. `imgrec soup` averages them
into one network of the same inference cost. The best of the four has the highest validation accuracy. The longer run
has twelve epochs. Everything is repeated with three seeds, and the test images are evaluated once. Requires about 15
minutes of CPU time.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from pathlib import Path

import torch
from common import finish, parse_options, pin
from fit_common import claim_gains, fit, print_summary, recalls
from input_common import data

from imgrec import RunFolder, soup_runs
from imgrec.runs.predictions import Predictions

RECIPE = "cifar10/fast"
PART = "{name: subset, source: {name: folder, root: cifar10}, images: 10000}"
QUICK = "{name: subset, source: {name: folder, root: cifar10}, images: 1000, splits: [train, val, test]}"
START, MORE, INGREDIENTS = 8, 3, 4
RATE = "0.3"
BEST, LONGER, SOUP = "the best of four", "one, four times as long", "soup"


def train(folder: Path, name: str, seed: int, epochs: int, source: str, start: RunFolder | None) -> RunFolder:
    """Train the recipe for ``epochs``, from scratch or from the weights of a run."""
    overrides = ["--data.source", source, "--seed_everything", str(seed), "--trainer.max_epochs", str(epochs)]
    overrides += ["--trainer.check_val_every_n_epoch", str(epochs)]
    if start is not None:
        overrides += ["--model.init_from", str(start.path), "--model.optimizer.lr", RATE]
    return fit(folder, name, RECIPE, *overrides)[0]


def run_seed(folder: Path, seed: int, quick: bool) -> dict[str, Predictions]:
    """Return the test predictions of the best network, the longer one and the soup."""
    source, count = (QUICK, 2) if quick else (PART, INGREDIENTS)
    first, more = (1, 1) if quick else (START, MORE)
    start = train(folder, f"start_{seed}", seed, first, source, None)
    runs = [train(folder, f"from_{seed}_{i}", 100 * seed + i + 1, more, source, start) for i in range(count)]
    longer = train(folder, f"longer_{seed}", 100 * seed + 99, more * count, source, start)
    best = max(runs, key=lambda run: recalls(run.predictions("val")).mean())
    with contextlib.redirect_stdout(io.StringIO()):
        soup = soup_runs(*runs, method="uniform")
    found = {BEST: best, LONGER: longer, SOUP: soup}
    before = recalls(start.predictions("test")).mean()
    alone = ", ".join(f"{recalls(run.predictions('test')).mean():.2%}" for run in runs)
    predictions = {name: run.predictions("test") for name, run in found.items()}
    means = ", ".join(f"{name} {recalls(each).mean():.2%}" for name, each in predictions.items())
    print(f"seed {seed}: start {before:.2%}; alone {alone}; {means}", flush=True)
    return predictions


def main() -> None:
    """Train three seeds and print the gain of the soup."""
    options = parse_options(__doc__.partition("\n")[0] if __doc__ else "")
    if data("cifar10") is None:
        return
    pin()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        seeds = [run_seed(Path(folder), seed, options.quick) for seed in range(2 if options.quick else 3)]
    found = {name: [each[name] for each in seeds] for name in (BEST, LONGER, SOUP)}
    print_summary(found, {})
    finish([*claim_gains({BEST: found[BEST], SOUP: found[SOUP]}, BEST, f"over {BEST}")])


if __name__ == "__main__":
    main()
