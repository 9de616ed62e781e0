"""Robust accuracy of a network trained with the regularizer `fgsm`, compared with the same network without it.

The recipe is experiments/fashion_mnist/adversarial.yaml, with three seeds each. The baseline sets `regularizers: null`.
Accuracy is measured on the 10,000 test images of Fashion-MNIST in three settings. They are: no attack, one FGSM step of
four grey levels, and ten PGD steps of one level within four levels. Training uses FGSM only. Requires about ten minutes
of CPU time.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from common import Claim, finish, parse_options, pin
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


def is_correct(run: RunFolder, images: Tensor, targets: Tensor, steps: int) -> NDArray[np.bool_]:
    """Return which images the network of a run classifies correctly after ``steps`` attack steps."""
    model, _ = load_model_folder(run.path / "model")
    model.eval()
    found = []
    for image_batch, target_batch in zip(images.split(BATCH), targets.split(BATCH), strict=True):

        def loss(logits: Tensor, target_batch: Tensor = target_batch) -> Tensor:
            return F.cross_entropy(logits, target_batch, reduction="sum")

        size = LEVELS if steps == 1 else 1
        attacked = image_batch
        if steps:
            attacked = projected_ascent(model, image_batch, loss, LEVELS / 255, size / 255, steps)
        with torch.no_grad():
            found.append((model(attacked).argmax(1) == target_batch).numpy())
    return np.concatenate(found)


def main() -> None:
    """Train both networks with three seeds and measure their accuracy under each attack."""
    options = parse_options(__doc__.partition("\n")[0] if __doc__ else "")
    if (dataset := data("FashionMNIST")) is None:
        return
    pin()
    torch.set_num_threads(1)
    test = FashionMNIST(str(dataset.parent), train=False)
    count, seeds, overrides = (500, 2, QUICK) if options.quick else (len(test), 3, [])
    images, targets = test.data[:count, None], test.targets[:count]
    found: dict[str, dict[str, list[NDArray[np.bool_]]]] = {side: {name: [] for name in ATTACKS} for side in SIDES}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(seeds):
            for side, more in SIDES.items():
                name = f"{side.replace(' ', '_')}_{seed}"
                run, seconds = fit(Path(folder), name, RECIPE, *more, *overrides, "--seed_everything", str(seed))
                for attack, steps in ATTACKS.items():
                    found[side][attack].append(is_correct(run, images, targets, steps))
                accuracies = ", ".join(f"{attack} {found[side][attack][-1].mean():.2%}" for attack in ATTACKS)
                print(f"seed {seed}, {side}: {accuracies}; {seconds:.0f} CPU s", flush=True)
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
