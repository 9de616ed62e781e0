"""A soup of four fine-tunings beside the best of them, and beside one fine-tuning that took as long as all four.

The network of cifar10/fast.yaml is trained on 10,000 images of CIFAR-10 for eight epochs; from there it is trained on
four times, three epochs each, which differ in the order of the images and their augmentation alone. `imgrec soup` makes
one network of them, which costs no more to run than each. The best of the four is that of the best validation accuracy;
the longer one has twelve epochs. Three seeds of all of it; the test images are looked at once, in the end. About a
quarter of an hour of CPU time.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from pathlib import Path

import torch
from common import arguments, finish, pin
from fit_common import fit, gains, recalls, summary
from input_common import data

from imgrec import RunFolder, soup_runs
from imgrec.runs.predictions import Predictions

RECIPE = "cifar10/fast"
PART = "{name: subset, source: {name: folder, root: cifar10}, images: 10000}"
QUICK = "{name: subset, source: {name: folder, root: cifar10}, images: 1000, splits: [train, val, test]}"
START, MORE, INGREDIENTS = 8, 3, 4
RATE = "0.3"
BEST, LONGER, SOUP = "the best of four", "one, four times as long", "soup"


def trained(place: Path, name: str, seed: int, epochs: int, source: str, start: RunFolder | None) -> RunFolder:
    """So many epochs of the recipe, from the beginning or from where a run ended."""
    said = ["--data.source", source, "--seed_everything", str(seed), "--trainer.max_epochs", str(epochs)]
    said += ["--trainer.check_val_every_n_epoch", str(epochs)]
    if start is not None:
        said += ["--model.init_from", str(start.path), "--model.optimizer.lr", RATE]
    return fit(place, name, RECIPE, *said)[0]


def sides(place: Path, seed: int, quick: bool) -> dict[str, Predictions]:
    """What each side says of the test images."""
    source, count = (QUICK, 2) if quick else (PART, INGREDIENTS)
    first, more = (1, 1) if quick else (START, MORE)
    start = trained(place, f"start_{seed}", seed, first, source, None)
    runs = [trained(place, f"from_{seed}_{i}", 100 * seed + i + 1, more, source, start) for i in range(count)]
    longer = trained(place, f"longer_{seed}", 100 * seed + 99, more * count, source, start)
    best = max(runs, key=lambda run: recalls(run.predictions("val")).mean())
    with contextlib.redirect_stdout(io.StringIO()):
        soup = soup_runs(*runs, method="uniform")
    found = {BEST: best, LONGER: longer, SOUP: soup}
    before = recalls(start.predictions("test")).mean()
    alone = ", ".join(f"{recalls(run.predictions('test')).mean():.2%}" for run in runs)
    said = {name: run.predictions("test") for name, run in found.items()}
    means = ", ".join(f"{name} {recalls(each).mean():.2%}" for name, each in said.items())
    print(f"seed {seed}: start {before:.2%}; alone {alone}; {means}", flush=True)
    return said


def main() -> None:
    """Three seeds."""
    options = arguments(__doc__.partition("\n")[0] if __doc__ else "")
    if data("cifar10") is None:
        return
    pin()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        seeds = [sides(Path(place), seed, options.quick) for seed in range(2 if options.quick else 3)]
    found = {name: [each[name] for each in seeds] for name in (BEST, LONGER, SOUP)}
    summary(found, {})
    finish([*gains({BEST: found[BEST], SOUP: found[SOUP]}, BEST, f"over {BEST}")])


if __name__ == "__main__":
    main()
