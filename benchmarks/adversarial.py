"""Test images moved against the network: one trained with the regularizer `fgsm`, and one trained without it.

experiments/fashion_mnist/adversarial.yaml as it is, and with `regularizers: null`; three seeds of each. The 10,000 test
images of Fashion-MNIST are named as they are; after one step of four grey levels against the network (FGSM), which is
what it was trained against; and after ten steps of one level within these four (PGD), which it was not. About ten
minutes of CPU time.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from common import Claim, arguments, finish, pin
from fit_common import fit
from input_common import data
from numpy.typing import NDArray
from torch import Tensor
from torchvision.datasets import FashionMNIST

from imgrec import RunFolder
from imgrec.export import load_model_folder
from imgrec.regularizers.adversarial import projected_ascent
from imgrec.stats.seeds import difference_over_seeds

RECIPE = "fashion_mnist/adversarial"
SIDES = {"without": ["--model.regularizers", "null"], "with fgsm": []}
LEVELS = 4
ATTACKS = {"as they are": 0, "one step": 1, "ten steps": 10}
QUICK = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "8"]
BATCH = 500


def correct(run: RunFolder, images: Tensor, targets: Tensor, steps: int) -> NDArray[np.bool_]:
    """Which images the network of a run names correctly after so many steps against it."""
    model, _ = load_model_folder(run.path / "model")
    model.eval()
    found = []
    for shown, named in zip(images.split(BATCH), targets.split(BATCH), strict=True):

        def loss(logits: Tensor, named: Tensor = named) -> Tensor:
            return F.cross_entropy(logits, named, reduction="sum")

        size = LEVELS if steps == 1 else 1
        moved = projected_ascent(model, shown, loss, LEVELS / 255, size / 255, steps) if steps else shown
        with torch.no_grad():
            found.append((model(moved).argmax(1) == named).numpy())
    return np.concatenate(found)


def main() -> None:
    """Three seeds of both, under each attack."""
    options = arguments(__doc__.partition("\n")[0] if __doc__ else "")
    if (folder := data("FashionMNIST")) is None:
        return
    pin()
    torch.set_num_threads(1)
    test = FashionMNIST(str(folder.parent), train=False)
    count, seeds, words = (500, 2, QUICK) if options.quick else (len(test), 3, [])
    images, targets = test.data[:count, None], test.targets[:count]
    found: dict[str, dict[str, list[NDArray[np.bool_]]]] = {side: {name: [] for name in ATTACKS} for side in SIDES}
    with tempfile.TemporaryDirectory() as place:
        for seed in range(seeds):
            for side, more in SIDES.items():
                name = f"{side.replace(' ', '_')}_{seed}"
                run, seconds = fit(Path(place), name, RECIPE, *more, *words, "--seed_everything", str(seed))
                for attack, steps in ATTACKS.items():
                    found[side][attack].append(correct(run, images, targets, steps))
                said = ", ".join(f"{attack} {found[side][attack][-1].mean():.2%}" for attack in ATTACKS)
                print(f"seed {seed}, {side}: {said}; {seconds:.0f} CPU s", flush=True)
    claims = []
    for attack, steps in ATTACKS.items():
        for side, runs in found.items():
            means = [100 * run.mean() for run in runs[attack]]
            print(f"{attack}, {side}: {np.mean(means):.2f} %, standard deviation {np.std(means, ddof=1):.2f}")
        by = difference_over_seeds(*(np.stack(found[side][attack]) for side in ("with fgsm", "without")))
        measured = f"{100 * by.difference:+.2f} points (95 % interval {100 * by.low:+.2f} to {100 * by.high:+.2f})"
        if steps:
            title = f"fgsm against {attack} of {LEVELS} grey levels in all"
            claims.append(Claim(title, measured, "above 0 with its interval", by.low > 0))
        else:
            print(f"images as they are, with fgsm: {measured}")
    finish(claims)


if __name__ == "__main__":
    main()
