"""Half of the training labels wrong: cross-entropy beside losses that do not believe every label, three seeds.

experiments/fashion_mnist/label_noise.yaml: 6,000 images of Fashion-MNIST to train on, each with a wrong label with
probability 0.5, any other class as likely as another. Every loss gets the same images, the same wrong labels, the same
order, augmentation and rates; the epoch is chosen on validation images whose labels are as wrong as those of training,
as nobody has others. The test images have their true labels and are looked at once, in the end; the ten classes have
1,000 each, so that the accuracy is the macro recall. About five minutes of CPU time.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from common import arguments, finish, pin
from fit_common import gains, side_by_side, summary
from input_common import data

PLAIN = "cross-entropy"
SIDES = {
    PLAIN: ["--model.loss", "cross_entropy"],
    "generalized cross-entropy": [],
    "symmetric cross-entropy": ["--model.loss", "symmetric_cross_entropy"],
}
QUICK = ["--trainer.max_epochs", "2", "--trainer.check_val_every_n_epoch", "2"]


def main() -> None:
    """Three seeds of every loss."""
    options = arguments(__doc__.partition("\n")[0] if __doc__ else "")
    if data("FashionMNIST") is None:
        return
    pin()
    with tempfile.TemporaryDirectory() as place:
        seeds, words = (2, QUICK) if options.quick else (3, [])
        found = side_by_side(Path(place), "fashion_mnist/label_noise", SIDES, seeds, words)
    summary(found, {})
    finish(gains(found, PLAIN, f"over {PLAIN}, half of the labels wrong"))


if __name__ == "__main__":
    main()
