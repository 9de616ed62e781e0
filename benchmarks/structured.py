"""Structured pruning to half of the MACs during training: accuracy and time compared with the dense network.

Each experiment is trained with three seeds, with and without its pruning, on the same images, epochs, schedule and
batches. The test images are evaluated once. The two networks of each seed are then timed in interleaved rounds in
PyTorch on one thread. ResNet-56 is trained for twelve epochs on 10,000 images of CIFAR-10, ResNet-20 for eighteen. This
is a fiftieth of the training of the papers, so only the difference at equal training is meaningful. Requires about
three hours on one core. ``--only ResNet-56`` runs one experiment.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from common import Claim, finish, measure_interleaved, pin
from input_common import data

from imgrec import RunFolder, load
from imgrec.compress.profiling import count_macs, count_parameters

HERE = Path(__file__).parent
SEEDS = 3


@dataclass(frozen=True)
class Race:
    """Experiment with pruning, its data and the claims about it."""

    title: str
    experiment: str
    folder: str
    epochs: int
    overrides: tuple[str, ...]
    """Overrides of both runs."""
    fewer: float
    """Smallest accepted ratio of dense to pruned MACs."""
    within: float
    """Largest accepted loss of accuracy against the dense network, in points."""


PART = "{name: subset, source: {name: folder, root: cifar10}, images: 10000}"

RACES = (
    Race(
        "ResNet-56, CIFAR-10",
        "cifar10/resnet56_half_macs",
        "cifar10",
        12,
        ("--data.source", PART, "--trainer.check_val_every_n_epoch", "3"),
        2.1,
        0.1,
    ),
    Race(
        "ResNet-20, CIFAR-10",
        "cifar10/resnet20_half_macs",
        "cifar10",
        18,
        ("--data.source", PART, "--trainer.check_val_every_n_epoch", "3"),
        2.1,
        0.1,
    ),
    Race("EfficientNet-Lite0, hand signs", "sign_digits/lite0_half_macs", "sign-digits", 20, (), 2.0, 0.1),
    Race(
        "ViT, hand signs",
        "sign_digits/vit_half_macs",
        "sign-digits",
        60,
        ("--trainer.check_val_every_n_epoch", "4"),
        2.0,
        0.1,
    ),
)


@dataclass(frozen=True)
class Run:
    """Result and cost of one training run."""

    accuracy: float
    seconds: float
    network: torch.nn.Module
    size: int


def train(race: Race, seed: int, dense: bool, *extra: str) -> Run:
    """Run `imgrec fit` with the experiment and further arguments in a subprocess."""
    with tempfile.TemporaryDirectory() as folder:
        recipe = HERE.parent / "experiments" / f"{race.experiment}.yaml"
        command = [str(Path(sys.executable).with_name("imgrec")), "fit", "--config", str(recipe), "--runs", folder]
        command += ["--seed_everything", str(seed), "--trainer.max_epochs", str(race.epochs)]
        command += ["--trainer.callbacks", "[]"] if dense else []
        command += race.overrides
        begun = time.perf_counter()
        subprocess.run(
            [*command, *extra], env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL, check=True
        )
        seconds = time.perf_counter() - begun
        (made,) = (Path(folder) / race.experiment).iterdir()
        found = load(made, device="cpu")
        accuracy: float = RunFolder(made).summary["test"]["acc"]
    return Run(accuracy, seconds, found.classifier, found.facts.image_size)


def milliseconds(network: torch.nn.Module, images: torch.Tensor, budget: float) -> float:
    """Return the median time of a forward pass, in milliseconds."""
    times: list[float] = []
    with torch.inference_mode():
        while sum(times) < budget or len(times) < 5:
            begun = time.perf_counter()
            network(images)
            times.append(time.perf_counter() - begun)
    return 1e3 * statistics.median(times)


def measure_speedup(dense: Run, narrow: Run, batch: int, rounds: int, budget: float) -> tuple[float, float, float]:
    """Return the milliseconds per batch of both networks and the median of the ratios per round."""
    images = torch.rand(batch, 3, dense.size, dense.size)
    sides = {
        "dense": lambda: milliseconds(dense.network, images, budget),
        "narrow": lambda: milliseconds(narrow.network, images, budget),
    }
    found = measure_interleaved(sides, rounds)
    ratio = statistics.median(a / b for a, b in zip(found["dense"], found["narrow"], strict=True))
    return statistics.median(found["dense"]), statistics.median(found["narrow"]), ratio


def compare(race: Race, seeds: int, rounds: int, budget: float, *extra: str) -> list[Claim]:
    """Train both networks with each seed, and compare their accuracy, MACs and time."""
    print(f"{race.title}: {race.epochs} epochs, {seeds} seed(s)")
    gained: list[float] = []
    fewer: list[float] = []
    ratios: dict[int, list[float]] = {1: [], 32: []}
    for seed in range(seeds):
        dense, narrow = train(race, seed, True, *extra), train(race, seed, False, *extra)
        image = torch.zeros(1, 3, dense.size, dense.size)
        macs = [count_macs(run.network, image) for run in (dense, narrow)]
        fewer.append(macs[0] / macs[1])
        gained.append(100 * (narrow.accuracy - dense.accuracy))
        print(
            f"  seed {seed}: test {dense.accuracy:.2%} dense, {narrow.accuracy:.2%} pruned ({gained[-1]:+.2f} points); "
            f"MACs {macs[0] / 1e6:.1f} M, {macs[1] / 1e6:.1f} M ({fewer[-1]:.2f}x fewer); parameters "
            f"{count_parameters(dense.network) / 1e6:.3f} M, {count_parameters(narrow.network) / 1e6:.3f} M; "
            f"trained and tested in {dense.seconds:.0f} s, {narrow.seconds:.0f} s"
        )
        for batch, kept in ratios.items():
            first, second, ratio = measure_speedup(dense, narrow, batch, rounds, budget)
            kept.append(ratio)
            print(f"    batch {batch}: {first:.2f} ms dense, {second:.2f} ms pruned: {ratio:.2f}x", flush=True)
    spread = f", standard deviation {statistics.stdev(gained):.2f}" if seeds > 1 else ""
    mean = statistics.mean(gained)
    times = {batch: statistics.median(kept) for batch, kept in ratios.items()}
    return [
        Claim(f"{race.title}, MACs", f"{min(fewer):.2f}x fewer", f"{race.fewer:g}x", min(fewer) >= race.fewer),
        Claim(
            f"{race.title}, accuracy against dense",
            f"{mean:+.2f} points on average{spread}",
            f"{-race.within:g} points at least",
            mean >= -race.within,
        ),
        Claim(
            f"{race.title}, measured time",
            f"{times[1]:.2f}x faster at batch 1, {times[32]:.2f}x at batch 32",
            "faster at both",
            min(times.values()) > 1,
        ),
    ]


def parse_command() -> tuple[bool, str]:
    """Parse the command line. Return the flag ``--quick`` and the filter of titles."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="run a short, less precise version (under 60 s)")
    parser.add_argument("--only", default="", metavar="TITLE", help="run only experiments whose title contains TITLE")
    found = parser.parse_args()
    return found.quick, found.only


def main() -> None:
    quick, only = parse_command()
    pin()
    torch.set_num_threads(1)
    claims = []
    for race in RACES[-1:] if quick else [race for race in RACES if only in race.title]:
        if data(race.folder) is None:
            continue
        if quick:
            rough = replace(race, epochs=1, within=100.0)  # accuracy after one epoch is not meaningful
            claims += compare(rough, 1, 3, 0.2, "--trainer.limit_train_batches", "20")
        else:
            claims += compare(race, SEEDS, 9, 1.0)
    finish(claims)


if __name__ == "__main__":
    main()
