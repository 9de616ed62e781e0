"""Distillation of a large network into a small one, compared with training without a teacher, on CIFAR-10.

The teacher is experiments/cifar10/fast.yaml, trained once on all 45,000 images. It is trained without label smoothing,
which removes the similarity of classes from its predictions. The student is experiments/cifar10/small.yaml, with a
quarter of the parameters and 5,000 of these images. It is trained with three seeds, with and without
experiments/_parts/distill.yaml. Images, order, augmentation and number of steps are equal. Each network is evaluated on
the test images once, after training. Requires about twenty minutes of CPU time.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

import numpy as np
from common import Claim, finish, parse_options, pin
from fit_common import EXPERIMENTS, fit
from input_common import data

from imgrec.stats.seeds import difference_over_seeds

QUICK = ["--trainer.max_epochs", "1", "--trainer.check_val_every_n_epoch", "1"]


def main() -> None:
    """Train the teacher and the students, and print the gain in accuracy."""
    options = parse_options(__doc__.partition("\n")[0] if __doc__ else "")
    if data("cifar10") is None:
        return
    pin()
    quick = [*QUICK, "--trainer.limit_train_batches", "20"] if options.quick else []
    right: dict[str, list[np.ndarray]] = {"alone": [], "distilled": []}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        teacher, seconds = fit(folder, "teacher", "cifar10/fast", "--model.loss", "cross_entropy", *quick)
        print(f"teacher: {format_run(teacher.summary, seconds)}", flush=True)
        distilled = ["--config", str(EXPERIMENTS / "_parts" / "distill.yaml"), "--model.teacher", str(teacher.path)]
        for seed in range(2 if options.quick else 3):
            for name, extra in (("alone", []), ("distilled", distilled)):
                overrides = [*extra, "--seed_everything", str(seed), *quick]
                run, seconds = fit(folder, f"{name}_{seed}", "cifar10/small", *overrides)
                found = run.predictions("test")
                right[name].append(found.predicted == found.targets)
                print(f"seed {seed}, {name}: {format_run(run.summary, seconds)}", flush=True)
    for name, seeds in right.items():
        accuracies = [100 * float(each.mean()) for each in seeds]
        print(f"{name}: {statistics.mean(accuracies):.2f} %, standard deviation {statistics.stdev(accuracies):.2f}")
    lift = difference_over_seeds(np.stack(right["distilled"]), np.stack(right["alone"]))
    measured = f"{100 * lift.difference:+.2f} points (95 % interval {100 * lift.low:+.2f} to {100 * lift.high:+.2f})"
    goal = "above 0 with its interval"
    finish([Claim("distillation lifts a small student over equal training", measured, goal, lift.low > 0)])


def format_run(summary: dict[str, object], seconds: float) -> str:
    """Return accuracy, size and cost of a run as one line."""
    images, test = summary["split_sizes"], summary["test"]
    assert isinstance(images, dict)
    assert isinstance(test, dict)
    return (
        f"test {test['acc']:.2%}, {summary['parameters']:,} parameters, {images['train']:,} images, {seconds:.0f} CPU s"
    )


if __name__ == "__main__":
    main()
