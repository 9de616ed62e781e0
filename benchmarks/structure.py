"""Gain and cost of necks and squeeze-and-excitation on three networks.

The first network is a pretrained EfficientNet-Lite0 with a frozen backbone (linear_probe.yaml, photographs of hand
signs). Its head receives the last feature map, or the output of a trained neck on the last three maps. The second is
torchvision's ResNet-18 on 10,000 images of CIFAR-10 (article_resnet18.yaml), whose last maps have one pixel. It has a
cosine schedule, because seeds differ by three points at a constant rate. The third is the small network of
cifar10/fast.yaml on the same images, a recipe that was tuned without these techniques. It divides its features by 8
before the head. With a neck, the learning rate of the head is divided by 64 instead, which is equivalent. The
validation accuracy supports this choice (PAN with 64 channels: 72 to 73 %).

The test images are evaluated once, after training. The interval of a gain is over seeds and images. The cost is
measured as in `imgrec cost`: the training steps with and without the technique alternate. Requires about 50 minutes of
CPU time. ``--only cifar10/fast`` runs one network.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from common import Claim, finish, pin
from fit_common import EXPERIMENTS, accuracy_gain, claim_gains, print_summary, train_variants
from input_common import data

from imgrec.studies.cost import TrainingStep, compare_steps, training_step
from imgrec.utils import yaml

PLAIN = "as it is"


def epochs(count: int) -> tuple[str, ...]:
    """Return the arguments for ``count`` epochs with one validation after the last epoch."""
    return ("--trainer.max_epochs", str(count), "--trainer.check_val_every_n_epoch", str(count))


PART = "{name: subset, source: {name: folder, root: cifar10}, images: 10000}"
QUICK = (*epochs(1), "--trainer.limit_train_batches", "4")


@dataclass(frozen=True)
class Network:
    """Recipe with its variants, overrides, number of seeds, and image and batch size of the measured step."""

    recipe: str
    overrides: tuple[str, ...]
    seeds: int
    size: int
    batch: int
    sides: Mapping[str, Mapping[str, Any]]
    frozen: bool = False
    """True if the backbone is frozen. The gains of necks are claims only for such a network."""


WITH_NECK = {
    "pooling": "max",
    "optimizer": {
        "name": "nesterov",
        "lr": 0.6,
        "weight_decay": 5e-4,
        "groups": [{"scope": "head", "lr_factor": 1 / 64}],
    },
}
NETWORKS = (
    Network(
        "sign_digits/linear_probe",
        (),
        5,
        96,
        32,
        {
            PLAIN: {},
            "fpn": {"neck": {"name": "fpn", "channels": 64}},
            "pan": {"neck": {"name": "pan", "channels": 64}},
        },
        frozen=True,
    ),
    Network(
        "cifar10/article_resnet18",
        ("--data.source", PART, *epochs(4), "--model.schedule", "cosine"),
        3,
        32,
        64,
        {
            PLAIN: {},
            "fpn": {"neck": {"name": "fpn", "channels": 64}},
            "pan": {"neck": {"name": "pan", "channels": 64}},
            "se": {"edits": {"name": "se", "reduction": 16}},
        },
    ),
    Network(
        "cifar10/fast",
        ("--data.source", PART, *epochs(8)),
        3,
        32,
        256,
        {
            PLAIN: {},
            "fpn": {"neck": {"name": "fpn", "channels": 128}, **WITH_NECK},
            "pan": {"neck": {"name": "pan", "channels": 128}, **WITH_NECK},
            "se": {"edits": {"name": "se", "reduction": 16}},
        },
    ),
)


def model_arguments(variant: Mapping[str, Any]) -> list[str]:
    """Return the arguments of `imgrec fit` for a variant."""
    return [argument for key, value in variant.items() for argument in (f"--model.{key}", json.dumps(value))]


def costs(network: Network, sides: Mapping[str, Mapping[str, Any]], batch: int, rounds: int) -> dict[str, str]:
    """Return one line per variant: the cost of its training step relative to the unmodified network."""
    model = yaml.parse((EXPERIMENTS / f"{network.recipe}.yaml").read_text(encoding="utf-8"))["model"]

    def step(more: Mapping[str, Any]) -> TrainingStep:
        training = training_step({**model, **more}, network.size, batch)
        if network.frozen:
            training.task.model.backbone.requires_grad_(requires_grad=False).eval()
        return training

    base = step({})
    lines = {PLAIN: f"{base.macs / 1e6:.1f} M MACs, {base.parameters:,} parameters that are trained"}
    for name, more in sides.items():
        if name == PLAIN:
            continue
        cost = compare_steps(step(more), base, rounds)
        lines[name] = (
            f"time of a step {cost.ratio - 1:+.1%}, memory {cost.memory / 2**20:+.1f} MiB, "
            f"MACs {cost.macs / base.macs:+.1%}, parameters {cost.parameters:+,}"
        )
    return lines


def measure(network: Network, quick: bool) -> list[Claim]:
    """Train all variants and seeds, and print their gains and costs."""
    print(f"{network.recipe}.yaml {' '.join(network.overrides)}", flush=True)
    selected = {name: network.sides[name] for name in (PLAIN, "pan")} if quick else network.sides
    sides = {name: model_arguments(variant) for name, variant in selected.items()}
    with tempfile.TemporaryDirectory() as folder:
        seeds, overrides = (2, (*network.overrides, *QUICK)) if quick else (network.seeds, network.overrides)
        found = train_variants(Path(folder), network.recipe, sides, seeds, overrides)
    print_summary(found, {})
    for name, cost in costs(network, selected, *((8, 1) if quick else (network.batch, 7))).items():
        brought = "" if name == PLAIN else f"{accuracy_gain(found[name], found[PLAIN])[1]}; "
        print(f"{name}: {brought}{cost}", flush=True)
    print()
    return claim_gains(found, PLAIN, f"on a frozen backbone, {network.recipe}") if network.frozen else []


def main() -> None:
    """Run all networks, or the network given by ``--only``."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="run a short, less precise version (under 60 s)")
    parser.add_argument("--only", choices=[network.recipe for network in NETWORKS], help="run this network only")
    options = parser.parse_args()
    if data("cifar10") is None:
        return
    pin()
    torch.set_num_threads(1)
    selected = [network for network in NETWORKS if options.only in (None, network.recipe)]
    selected = selected[:1] if options.quick else selected
    finish([claim for network in selected for claim in measure(network, options.quick)])


if __name__ == "__main__":
    main()
