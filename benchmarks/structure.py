"""What a neck and squeeze-and-excitation bring and cost: the network of cifar10/fast.yaml with each, and without.

10,000 training images of CIFAR-10, eight epochs, three seeds of each. Schedule and augmentation are those of the
recipe, which was tuned without them, and so is the learning rate but for the necks: they have a third of it, by which
a pyramid's validation accuracy rose from 66 to 71 %. The test images are looked at once, in the end; the interval of a
gain is over other seeds and images. The cost is that of a training step on 256 images beside the same step without it,
in turn, as in technique_cost.py, and the multiplications of one image. About fifteen minutes of CPU time.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from common import arguments, finish, pin
from fit_common import EXPERIMENTS, gain, side_by_side, summary
from input_common import data

from imgrec import yaml12
from imgrec.compress.measure import count_macs
from imgrec.studies.cost import TrainingStep, compare_steps, training_step

RECIPE = "cifar10/fast"
PLAIN = "as it is"
SLOWER = {"name": "nesterov", "lr": 0.2, "weight_decay": 5e-4}
SIDES: Mapping[str, Mapping[str, Any]] = {
    PLAIN: {},
    "fpn": {"neck": {"name": "fpn", "channels": 64}, "pooling": "max", "optimizer": SLOWER},
    "pan": {"neck": {"name": "pan", "channels": 64}, "pooling": "max", "optimizer": SLOWER},
    "se": {"edits": {"name": "se", "reduction": 16}},
}
PART = "{name: subset, source: {name: folder, root: cifar10}, images: 10000}"
WORDS = ["--data.source", PART, "--trainer.max_epochs", "8", "--trainer.check_val_every_n_epoch", "8"]
QUICK = ["--trainer.max_epochs", "1", "--trainer.check_val_every_n_epoch", "1", "--trainer.limit_train_batches", "4"]


def words(more: Mapping[str, Any]) -> list[str]:
    """What is said to `imgrec fit` for a side."""
    return [word for key, value in more.items() for word in (f"--model.{key}", json.dumps(value))]


def macs(step: TrainingStep) -> int:
    """The multiplications of one image."""
    model = step.task.model.eval()
    found = count_macs(model, torch.zeros(1, 3, 32, 32))
    model.train()
    return found


def costs(sides: Mapping[str, Mapping[str, Any]], batch: int, rounds: int) -> dict[str, str]:
    """One line a side: what its step takes beside that of the recipe's own network."""
    model = yaml12.load((EXPERIMENTS / f"{RECIPE}.yaml").read_text(encoding="utf-8"))["model"]
    base = training_step(model, 32, batch)
    lines = {PLAIN: f"{macs(base) / 1e6:.1f} M MACs, {base.parameters:,} parameters"}
    for name, more in sides.items():
        if name == PLAIN:
            continue
        step = training_step({**model, **more}, 32, batch)
        cost = compare_steps(step, base, rounds)
        lines[name] = (
            f"time of a step {cost.ratio - 1:+.1%}, memory {cost.memory / 2**20:+.1f} MiB, "
            f"MACs {macs(step) / macs(base) - 1:+.1%}, parameters {cost.parameters:+,}"
        )
    return lines


def main() -> None:
    """Three seeds of every side, and what each costs."""
    options = arguments(__doc__.partition("\n")[0] if __doc__ else "")
    if data("cifar10") is None:
        return
    pin()
    torch.set_num_threads(1)
    chosen = {name: SIDES[name] for name in (PLAIN, "pan")} if options.quick else SIDES
    sides = {name: words(more) for name, more in chosen.items()}
    with tempfile.TemporaryDirectory() as place:
        seeds, said = (2, [*WORDS, *QUICK]) if options.quick else (3, WORDS)
        found = side_by_side(Path(place), RECIPE, sides, seeds, said)
    summary(found, {})
    for name, cost in costs(chosen, *((16, 1) if options.quick else (256, 7))).items():
        brought = "" if name == PLAIN else f"{gain(found[name], found[PLAIN])[1]}; "
        print(f"{name}: {brought}{cost}")
    finish([])


if __name__ == "__main__":
    main()
