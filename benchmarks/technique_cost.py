"""What each technique costs: a training step with it beside the same step without it, in turn.

ResNet-18 on batches of 64 images of 32 pixels, SGD with Nesterov momentum, float32. Every loss, regularizer, neck,
pooling, head, edit and wrapper of an optimizer that is registered, with its defaults, in the place of cross-entropy,
none, the network's own, a linear layer, none and the plain optimizer; where a technique needs another head or backbone,
both steps have it. Time is the median of the ratios of one step to
the other, of the processor's seconds on one core, or by the clock on a GPU; memory is what all tensors take at the
fullest moment of a step, counted and not sampled; parameters are those that are trained.
"""

from __future__ import annotations

from typing import Any

import torch
from common import arguments, finish, pin

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
"""Without which a technique does nothing, or has nothing to work on: in words, and in the model's spec."""


def specs(plural: str, entry: Entry[Any]) -> list[dict[str, Any]]:
    """The entry with as little as it needs; then, for one that is about certain layers, for all of them."""
    spec: dict[str, Any] = {"name": entry.name}
    if plural == "regularizers":
        spec["weight"] = 1e-3
    if plural == "optimizers":
        spec["base"] = BASE["optimizer"]
    return [spec, {**spec, "scope": None}] if plural == "edits" else [spec]


def needed(entry: Entry[Any]) -> tuple[str, dict[str, Any]]:
    """What the steps with and without the entry share, in words and beside BASE."""
    if head := getattr(entry.factory, "needs_head", None):
        return f"{head} head", {"head": head}
    return NEEDS.get(entry.name, ("linear head", {}))


def made(model: dict[str, Any], place: str, choices: list[dict[str, Any]], size: tuple[int, str]) -> TrainingStep:
    """The step with the first of these specs that the network takes."""
    for spec in choices:
        try:
            return training_step({**model, place: spec}, 32, size[0], device=size[1])
        except UserError as error:
            refusal = error
    raise refusal


def main() -> None:
    """One line an entry."""
    options = arguments(__doc__.partition("\n")[0] if __doc__ else "")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    pin()
    torch.set_num_threads(1)
    size, rounds = (4 if options.quick else 64, device), 1 if options.quick else 5
    bases: dict[str, TrainingStep] = {}
    print("| technique | beside a step with | time | memory | parameters |\n|---|---|---|---|---|")
    for plural, place in PLACES.items():
        for entry in registry(plural):
            if plural == "optimizers" and "base" not in entry.parameters:
                continue
            key, more = needed(entry)
            model = {**BASE, **more}
            try:
                if key not in bases:
                    bases[key] = training_step(model, 32, size[0], device=device)
                    print(
                        f"| the step itself, {key} | | {1000 * bases[key].seconds():.0f} ms "
                        f"| {bases[key].memory / 2**20:.0f} MiB | {bases[key].parameters:,} |",
                        flush=True,
                    )
                cost = compare_steps(made(model, place, specs(plural, entry), size), bases[key], rounds)
            except UserError as error:
                print(f"| {place} `{entry.name}` | | not measured: {error} | | |", flush=True)
                continue
            print(
                f"| {place} `{entry.name}` | {key} | {cost.ratio - 1:+.1%} | {cost.memory / 2**20:+.1f} MiB "
                f"| {cost.parameters:+,} |",
                flush=True,
            )
    finish([])


if __name__ == "__main__":
    main()
