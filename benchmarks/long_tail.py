"""A long tail: cross-entropy and three ways to balance the classes, on long-tailed CIFAR-10, three seeds.

experiments/cifar10/long_tail.yaml: the first class has 4,500 training images, the last one 45, 11,164 in all. The
baseline is cross-entropy. It is compared with balanced class weights, class-aware sampling at temperature 0.5, and
logit adjustment with tau 1. Each of the four is trained without label smoothing and with label smoothing 0.1. All
variants have the same images, augmentation, learning rates and number of steps. The network after the last
epoch is evaluated, once, on the test images, 1,000 of each class. The macro recall is compared, which equals the
accuracy there. About fifteen minutes of CPU time.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from common import finish, parse_options, pin
from fit_common import claim_gains, print_summary, train_variants
from input_common import data

PLAIN = "cross-entropy"
WAYS = {
    PLAIN: ("name: cross_entropy", []),
    "balanced class weights": ("name: cross_entropy, class_weights: balanced", []),
    "class-aware sampling": ("name: cross_entropy", ["--data.sampler", "{name: class_aware, temperature: 0.5}"]),
    "logit adjustment": ("name: logit_adjusted, tau: 1.0", []),
}
SMOOTHED = ", smoothing 0.1"
SIDES = {
    f"{way}{suffix}": ["--model.loss", f"{{{loss}{option}}}", *overrides]
    for suffix, option in (("", ", label_smoothing: 0.0"), (SMOOTHED, ", label_smoothing: 0.1"))
    for way, (loss, overrides) in WAYS.items()
}
QUICK = ["--trainer.max_epochs", "1", "--trainer.check_val_every_n_epoch", "1"]


def main() -> None:
    """Train three seeds of every side."""
    options = parse_options(__doc__.partition("\n")[0] if __doc__ else "")
    if data("cifar10") is None:
        return
    pin()
    with tempfile.TemporaryDirectory() as folder:
        seeds, overrides = (2, QUICK) if options.quick else (3, [])
        found = train_variants(Path(folder), "cifar10/long_tail", SIDES, seeds, overrides)
    print_summary(found, {"of the four frequent classes": slice(0, 4), "of the three rare ones": slice(7, 10)})
    plain = {name: runs for name, runs in found.items() if SMOOTHED not in name}
    smoothed = {name: runs for name, runs in found.items() if SMOOTHED in name}
    label = "macro recall of a long tail"
    claims = claim_gains(plain, PLAIN, f"over {PLAIN}, {label}")
    finish(claims + claim_gains(smoothed, PLAIN + SMOOTHED, f"over {PLAIN}{SMOOTHED}, {label}"))


if __name__ == "__main__":
    main()
