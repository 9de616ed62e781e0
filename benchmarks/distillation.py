"""A small network that learns from a large one, beside itself without: few labels, equal training, three seeds.

sign-digits with about 200 photographs to learn from, as many to choose the epoch by, and 1,650 to test. The teacher is
EfficientNet-Lite0, pretrained on ImageNet and fine-tuned on the same 200, once. The student is
experiments/sign_digits/small.yaml, from scratch, with and without experiments/_parts/distill.yaml: the same images in
the same order, the same augmentation, as many steps. The test images are looked at once, at the end of each. About a
quarter of an hour of CPU time.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from common import Claim, arguments, finish, pin
from input_common import data

from imgrec import RunFolder
from imgrec.evaluate.seeds import difference_over_seeds

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
TEACHER = [
    *("--data.val_fraction", "0.1", "--data.test_fraction", "0.8", "--trainer.max_epochs", "15"),
    *("--trainer.check_val_every_n_epoch", "5", "--trainer.precision", "32-true", "--model.channels_last", "true"),
]
QUICK = ["--trainer.max_epochs", "2", "--trainer.check_val_every_n_epoch", "2"]


def train(folder: Path, name: str, configs: list[str], *more: str) -> tuple[RunFolder, float]:
    """`imgrec fit` in a process of its own: its run, and the CPU seconds of the process."""
    command = [str(Path(sys.executable).with_name("imgrec")), "fit", "--runs", str(folder), "--experiment", name]
    for config in configs:
        command += ["--config", str(EXPERIMENTS / f"{config}.yaml")]
    environment = {**os.environ, "IMGREC_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    words = ["--data.num_workers", "0", "--trainer.enable_progress_bar", "false", *more]
    process = subprocess.Popen([*command, *words], env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    (made,) = (folder / name).iterdir()
    return RunFolder(made), usage.ru_utime + usage.ru_stime


def right(run: RunFolder) -> np.ndarray:
    """Whether each test image was named correctly, in the order of their ids."""
    found = run.predictions("test")
    return found.predicted == found.targets


def main() -> None:
    """Teacher, students, and what the difference is worth."""
    options = arguments(__doc__.partition("\n")[0] if __doc__ else "")
    if data("sign-digits") is None or data("weights") is None:
        return
    pin()
    quick = QUICK if options.quick else []
    seeds = 2 if options.quick else 3
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        teacher, seconds = train(folder, "teacher", ["sign_digits/finetune_lite0"], *TEACHER, *quick)
        counts = teacher.summary["split_sizes"]
        print(f"{counts['train']} images to train, {counts['val']} to choose the epoch, {counts['test']} to test")
        print(
            f"teacher, EfficientNet-Lite0: test {teacher.summary['test']['acc']:.2%}, {seconds:.0f} CPU s", flush=True
        )
        taught = ["sign_digits/small", "_parts/distill"]
        told = ["--model.init_args.teacher", str(teacher.path)]
        sides: dict[str, list[np.ndarray]] = {"alone": [], "distilled": []}
        for seed in range(seeds):
            for name, configs, more in (("alone", taught[:1], []), ("distilled", taught, told)):
                if options.quick and seed and name == "distilled":
                    continue
                words = [*more, "--seed_everything", str(seed), *quick]
                run, seconds = train(folder, f"{name}_{seed}", configs, *words)
                sides[name].append(right(run))
                accuracy, parameters = run.summary["test"]["acc"], run.summary["parameters"]
                print(
                    f"seed {seed}, {name}: test {accuracy:.2%}, {parameters:,} parameters, {seconds:.0f} CPU s",
                    flush=True,
                )
    for name, found in sides.items():
        accuracies = [100 * each.mean() for each in found]
        spread = f", standard deviation {np.std(accuracies, ddof=1):.2f}" if len(found) > 1 else ""
        print(f"{name}: {np.mean(accuracies):.2f} %{spread}")
    lift = difference_over_seeds(np.stack(sides["distilled"]), np.stack(sides["alone"]))
    measured = f"{100 * lift.difference:+.2f} points (95 % interval {100 * lift.low:+.2f} to {100 * lift.high:+.2f})"
    goal = "above 0 with its interval"
    finish([Claim("distillation lifts a small student over equal training", measured, goal, lift.low > 0)])


if __name__ == "__main__":
    main()
