"""Half of the training labels wrong: cross-entropy compared with losses robust to label noise, three seeds.

experiments/fashion_mnist/label_noise.yaml has 6,000 training images of Fashion-MNIST. Each label is replaced by a
random other class with probability 0.5. Images, labels, order, augmentation and learning rates are equal for all
losses. The best epoch is selected on validation images with the same label noise. The test images have their true
labels and are evaluated once. Each of the ten classes has 1,000 of them, so accuracy equals macro recall. Requires
about five minutes of CPU time.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from common import finish, parse_options, pin
from fit_common import claim_gains, print_summary, train_variants
from input_common import data

PLAIN = "cross-entropy"
SIDES = {
    PLAIN: ["--model.loss", "cross_entropy"],
    "generalized cross-entropy": [],
    "symmetric cross-entropy": ["--model.loss", "symmetric_cross_entropy"],
}
QUICK = ["--trainer.max_epochs", "2", "--trainer.check_val_every_n_epoch", "2"]


def main() -> None:
    """Train every loss with three seeds and print the gains."""
    options = parse_options(__doc__.partition("\n")[0] if __doc__ else "")
    if data("FashionMNIST") is None:
        return
    pin()
    with tempfile.TemporaryDirectory() as folder:
        seeds, overrides = (2, QUICK) if options.quick else (3, [])
        found = train_variants(Path(folder), "fashion_mnist/label_noise", SIDES, seeds, overrides)
    print_summary(found, {})
    finish(claim_gains(found, PLAIN, f"over {PLAIN}, half of the labels wrong"))


if __name__ == "__main__":
    main()
