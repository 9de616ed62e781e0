"""What a soup is made of: trained networks that may be averaged, and the data that all of them were trained for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from imgrec.compare.align import find_finished_runs
from imgrec.compress.surgery import surgery_of
from imgrec.errors import UserError
from imgrec.export import Loaded, read_origin
from imgrec.models import BACKBONES, HEADS
from imgrec.registry import Registry, Spec
from imgrec.runs.data import data_key, data_of
from imgrec.runs.folder import RunFolder, is_run_folder
from imgrec.runs.specs import registry_of
from imgrec.spec_defaults import complete_spec
from imgrec.studies.compression.variant import Parent
from imgrec.utils.formatting import config_value

_TRAINING = (
    *(
        "pretrained",
        "weights",
        "load_weights",
        "dropout",
        "drop_rate",
        "drop_path_rate",
        "attn_drop_rate",
        "proj_drop_rate",
    ),
    *("pos_drop_rate", "patch_drop_rate", "samples"),
)
"""Arguments of backbones and heads that say where training starts, or matter while it lasts, and no more."""
_PARTS: dict[str, Registry[Any]] = {"backbone": BACKBONES, "head": HEADS}


@dataclass(frozen=True, eq=False)
class Ingredient:
    """A trained network of a run: its best, or that of one of its checkpoints.

    Attributes:
        path: the run folder, or the checkpoint.
        run: the run folder.
    """

    path: Path
    run: RunFolder

    @property
    def name(self) -> str:
        """Experiment and run id, and the checkpoint where one was named."""
        own = f"{self.run.experiment}/{self.run.run_id}"
        return own if self.path == self.run.path else f"{own} {self.path.name}"

    @cached_property
    def loaded(self) -> Loaded:
        """The network with its specs and facts, on the CPU."""
        return read_origin(self.path, "soup")

    @cached_property
    def state(self) -> dict[str, Tensor]:
        """Its tensors by name."""
        return dict(self.loaded.classifier.state_dict())

    @cached_property
    def weights(self) -> str:
        """A digest of the network, whatever file it stands in."""
        digest = hashlib.blake2b(digest_size=16)
        for name, value in sorted(self.state.items()):
            digest.update(f"{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
            digest.update(value.cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


def find_ingredients(given: Sequence[str | Path | RunFolder]) -> list[Ingredient]:
    """The networks that paths mean.

    Args:
        given: run folders; checkpoints in them; folders of runs, which stand for the finished ones that were trained.

    Raises:
        UserError: a path is none of these, a run is not trained to its end, or there are not two different networks.
    """
    found: list[Ingredient] = []
    for each in given:
        path = Path(each).expanduser()
        if path.is_file():
            around = path.absolute().parent.parent
            if not is_run_folder(around):
                raise UserError(f"soup: {path} is in no run folder, so that nobody knows the images it was trained on")
            found.append(Ingredient(path, RunFolder(around)))
            continue
        below = (
            [path] if is_run_folder(path) else [run.path for run in find_finished_runs([path])[0] if not _is_made(run)]
        )
        found += [Ingredient(folder, Parent(RunFolder(folder)).run) for folder in below]
    if len(found) < 2:
        raise UserError(f"soup: two networks at least are averaged; given: {len(found)}")
    for i, one in enumerate(found):
        for other in found[:i]:
            if one.weights == other.weights:
                raise UserError(f"soup: {one.path} and {other.path} hold the same network")
    return found


def refuse_different(ingredients: Sequence[Ingredient]) -> None:
    """Raise where networks cannot be averaged: another architecture, surgery, classes or preprocessing.

    Raises:
        UserError: it names the first two that differ, and in what.
    """
    first = ingredients[0]
    ours = dict(_said(first))
    for other in ingredients[1:]:
        theirs = dict(_said(other))
        for what in [*ours, *(each for each in theirs if each not in ours)]:
            if ours.get(what) != theirs.get(what):
                raise UserError(
                    f"soup: {first.path} and {other.path} cannot be averaged: {what} is "
                    f"{_short(ours.get(what))} here and {_short(theirs.get(what))} there"
                )
        shapes = [{name: tuple(value.shape) for name, value in each.state.items()} for each in (first, other)]
        odd = sorted(name for name in shapes[0].keys() | shapes[1].keys() if shapes[0].get(name) != shapes[1].get(name))
        if odd:
            here, there = (each.get(odd[0], "missing") for each in shapes)
            raise UserError(
                f"soup: {first.path} and {other.path} cannot be averaged: the tensor {odd[0]} is {here} here and "
                f"{there} there"
            )


def shared_data(ingredients: Sequence[Ingredient]) -> Any:
    """The data module of the first ingredient, set up, where none was trained on what it evaluates on.

    Raises:
        UserError: the data of a run is not at hand or has changed, or one was trained on another's validation or test
            images.
    """
    modules: list[tuple[Any, Any]] = []
    for each in {ingredient.run.path.resolve(): ingredient for ingredient in ingredients}.values():
        said = data_key(each.run)
        known = next((data for key, data in modules if key == said), None)
        data = data_of(each.run) if known is None else known
        if known is None:
            modules.append((said, data))
        judge = modules[0][1]
        trained = _ids(data, "train")
        for split in ("val", "test"):
            if seen := trained & _ids(judge, split):
                word = {"val": "validation", "test": "test"}[split]
                raise UserError(
                    f"soup: {each.run.path} was trained on {len(seen):,} of the {word} images of "
                    f"{ingredients[0].run.path} ({min(seen)}): their splits are not the same, and nothing could be "
                    "chosen or said fairly"
                )
    return modules[0][1]


def _is_made(run: RunFolder) -> bool:
    """Whether a run was made from others, and not trained by a config."""
    return run.parent is not None or bool(run.environment.get("variant"))


def _said(ingredient: Ingredient) -> Iterator[tuple[str, Any]]:
    loaded = ingredient.loaded
    specs: Mapping[str, Any] = loaded.specs.without_initial_values().to_dict()
    for part, spec in specs.items():
        if part in _PARTS:
            yield from _arguments(part, spec)
        elif part not in ("normalize", "init"):
            registry = registry_of("model", part)
            yield f"the part `{part}`", spec if registry is None else complete_spec(registry, spec)
    surgery = surgery_of(loaded.classifier)
    if any(step["step"] == "qat" for step in surgery):
        raise UserError(f"soup: {ingredient.path} was trained for int8: its ranges are no weights to be averaged")
    yield "what was taken out of the network", surgery
    yield (
        "the mean and standard deviation of the images",
        [[round(value, 6) for value in getattr(loaded.classifier, name).tolist()] for name in ("mean", "std")],
    )
    facts = loaded.facts
    yield "the list of classes", facts.class_names
    yield "the side of the images", facts.image_size
    yield "the number of channels", facts.channels
    yield "what evaluation does to images", list(facts.eval_transforms)


def _arguments(part: str, spec: Spec) -> Iterator[tuple[str, Any]]:
    """The name of a backbone or a head, and its arguments, defaults and all."""
    registry = _PARTS[part]
    name, given = registry.parse(spec)
    untagged = name.partition(".")[0]  # timm's tags name weights
    yield f"the {part}", untagged if part == "backbone" and untagged in registry else name
    parameters = registry.entry(name).parameters
    defaults = {key: each.default for key, each in parameters.items() if each.default is not each.empty}
    for key, value in (defaults | given).items():
        if key not in _TRAINING:
            yield f"`{key}` of the {part}", value


def _ids(data: Any, split: str) -> set[str]:
    ids = data.source.ids
    return {ids[row] for row in getattr(data.splits, split).tolist()}


def _short(value: Any) -> str:
    text = config_value(list(value) if isinstance(value, tuple) else value)
    return text if len(text) <= 200 else f"{text[:200]}…"
