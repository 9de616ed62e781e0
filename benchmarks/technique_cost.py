"""Cost of each registered technique: a training step with it compared with the same step without it, interleaved.

The base is ResNet-18 on batches of 64 images of 32 pixels, SGD with Nesterov momentum, float32. It has cross-entropy, a
linear head, and no regularizer, neck or edit. Every registered loss, regularizer, neck, pooling, head, edit and
wrapping optimizer replaces its part of the base with default arguments. If a technique requires another head or
backbone, both steps have it. Time is the median ratio of the two steps, in CPU seconds on one core or in wall-clock
time on a GPU. Memory is the peak size of all tensors in a step, counted exactly. Parameters are the trainable ones.
"""

from __future__ import annotations

from typing import Any

import torch
from common import finish, parse_options, pin

from imgrec.cli.commands.list_show import registry
from imgrec.errors import UserError
from imgrec.studies.cost import TrainingStep, compare_steps, training_step
from imgrec.utils.signature import Entry

PLACES = {
    "losses": "loss",
    "regularizers": "regularizers",
    "necks": "neck",
    "poolings": "pooling",
    "heads": "head",
    "edits": "edits",
    "optimizers": "optimizer",
}
BASE: dict[str, Any] = {
    "backbone": "resnet18",
    "normalize": "imagenet",
    "optimizer": {"name": "nesterov", "lr": 0.01, "weight_decay": 5e-4},
}
NEEDS: dict[str, tuple[str, dict[str, Any]]] = {
    "r_drop": ("linear head with dropout", {"head": {"name": "linear", "dropout": 0.2}}),
    "simple_pyramid": ("plain transformer", {"backbone": {"name": "vit_tiny_patch16_224", "patch_size": 4}}),
}
"""Model that a technique requires to have an effect: label and spec, by technique."""


def specs(plural: str, entry: Entry[Any]) -> list[dict[str, Any]]:
    """Return specs of the entry: the minimal one and, for an edit, one with the scope of all layers."""
    spec: dict[str, Any] = {"name": entry.name}
    if plural == "regularizers":
        spec["weight"] = 1e-3
    if plural == "optimizers":
        spec["base"] = BASE["optimizer"]
    return [spec, {**spec, "scope": None}] if plural == "edits" else [spec]


def shared_model(entry: Entry[Any]) -> tuple[str, dict[str, Any]]:
    """Return label and spec of the model that the steps with and without the entry share."""
    if head := getattr(entry.factory, "needs_head", None):
        return f"{head} head", {"head": head}
    return NEEDS.get(entry.name, ("linear head", {}))


def build_step(model: dict[str, Any], key: str, choices: list[dict[str, Any]], size: tuple[int, str]) -> TrainingStep:
    """Return the training step with the first spec that is valid for the network."""
    for spec in choices:
        try:
            return training_step({**model, key: spec}, 32, size[0], device=size[1])
        except UserError as error:
            refusal = error
    raise refusal


def main() -> None:
    """Print one line per registered technique."""
    options = parse_options(__doc__.partition("\n")[0] if __doc__ else "")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    pin()
    torch.set_num_threads(1)
    size, rounds = (4 if options.quick else 64, device), 1 if options.quick else 5
    bases: dict[str, TrainingStep] = {}
    print("| technique | beside a step with | time | memory | parameters |\n|---|---|---|---|---|")
    for plural, key in PLACES.items():
        for entry in registry(plural):
            if plural == "optimizers" and "base" not in entry.parameters:
                continue
            label, extra = shared_model(entry)
            model = {**BASE, **extra}
            try:
                if label not in bases:
                    bases[label] = training_step(model, 32, size[0], device=device)
                    print(
                        f"| the step itself, {label} | | {1000 * bases[label].seconds():.0f} ms "
                        f"| {bases[label].memory / 2**20:.0f} MiB | {bases[label].parameters:,} |",
                        flush=True,
                    )
                cost = compare_steps(build_step(model, key, specs(plural, entry), size), bases[label], rounds)
            except UserError as error:
                print(f"| {key} `{entry.name}` | | not measured: {error} | | |", flush=True)
                continue
            print(
                f"| {key} `{entry.name}` | {label} | {cost.ratio - 1:+.1%} | {cost.memory / 2**20:+.1f} MiB "
                f"| {cost.parameters:+,} |",
                flush=True,
            )
    finish([])


if __name__ == "__main__":
    main()
