"""A long tail: cross-entropy beside what balances the classes, on long-tailed CIFAR-10, three seeds.

experiments/cifar10/long_tail.yaml: of the first class 4,500 training images, of the last one 45, 11,164 in all. Every
way gets the same images, the same augmentation and rates, and as many steps; the network after the last epoch is what
counts. The test images, 1,000 of each class, are looked at once, in the end; what is compared is the macro recall,
which is the accuracy there. About ten minutes of CPU time.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from common import arguments, finish, pin
from fit_common import gains, side_by_side, summary
from input_common import data

PLAIN = "cross-entropy"
SMOOTHED = "{name: cross_entropy, label_smoothing: 0.1}"
SIDES = {
    PLAIN: ["--model.loss", SMOOTHED],
    "balanced class weights": [
        "--model.loss",
        "{name: cross_entropy, label_smoothing: 0.1, class_weights: balanced}",
    ],
    "class-aware sampling": ["--model.loss", SMOOTHED, "--data.sampler", "class_aware"],
    "logit adjustment": [],
}
QUICK = ["--trainer.max_epochs", "1", "--trainer.check_val_every_n_epoch", "1"]


def main() -> None:
    """Three seeds of every way."""
    options = arguments(__doc__.partition("\n")[0] if __doc__ else "")
    if data("cifar10") is None:
        return
    pin()
    with tempfile.TemporaryDirectory() as place:
        seeds, words = (2, QUICK) if options.quick else (3, [])
        found = side_by_side(Path(place), "cifar10/long_tail", SIDES, seeds, words)
    summary(found, {"of the four frequent classes": slice(0, 4), "of the three rare ones": slice(7, 10)})
    finish(gains(found, PLAIN, f"over {PLAIN}, macro recall of a long tail"))


if __name__ == "__main__":
    main()
