"""Candidates of a model soup: trained models that can be averaged, and their common data."""

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
from imgrec.runs.config import registry_of
from imgrec.runs.data import data_key, load_run_data
from imgrec.runs.folder import RunFolder, is_run_folder
from imgrec.spec_defaults import complete_spec
from imgrec.studies.compression.variant import Parent
from imgrec.utils.formatting import config_value

_TRAINING_ARGUMENTS = (
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
"""Arguments of backbones and heads that affect the initial weights or the training only."""
_PARTS: dict[str, Registry[Any]] = {"backbone": BACKBONES, "head": HEADS}


@dataclass(frozen=True, eq=False)
class SoupCandidate:
    """A trained model of a run: its best one, or that of a checkpoint.

    Args:
        path: Run folder or checkpoint.
        run: Run folder.
    """

    path: Path
    run: RunFolder

    @property
    def name(self) -> str:
        """Experiment and run id, followed by the name of the checkpoint if there is one."""
        run = f"{self.run.experiment}/{self.run.run_id}"
        return run if self.path == self.run.path else f"{run} {self.path.name}"

    @cached_property
    def loaded(self) -> Loaded:
        """Model with its specs and facts, on the CPU."""
        return read_origin(self.path, "soup")

    @cached_property
    def state(self) -> dict[str, Tensor]:
        """State dict of the model."""
        return dict(self.loaded.classifier.state_dict())

    @cached_property
    def weights(self) -> str:
        """Hash of the tensors, independent of the file that contains them."""
        digest = hashlib.blake2b(digest_size=16)
        for name, value in sorted(self.state.items()):
            digest.update(f"{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
            digest.update(value.cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


def load_candidates(paths: Sequence[str | Path | RunFolder]) -> list[SoupCandidate]:
    """Return the trained models at some paths.

    Args:
        paths: Run folders, checkpoints in run folders, and folders of runs. Of a folder of runs, the finished runs
            that were trained are used.

    Raises:
        UserError: If a path is none of these, or if a run is not finished. If there are fewer than two models, or two
            equal models.
    """
    found: list[SoupCandidate] = []
    for each in paths:
        path = Path(each).expanduser()
        if path.is_file():
            around = path.absolute().parent.parent
            if not is_run_folder(around):
                raise UserError(
                    f"soup: expected a checkpoint in a run folder, which lists its training images, got {path}."
                )
            found.append(SoupCandidate(path, RunFolder(around)))
            continue
        folders = [path]
        if not is_run_folder(path):
            folders = [run.path for run in find_finished_runs([path])[0] if not _is_derived(run)]
        found += [SoupCandidate(folder, Parent(RunFolder(folder)).run) for folder in folders]
    if len(found) < 2:
        raise UserError(f"soup: expected two models or more, got {len(found)}.")
    for i, one in enumerate(found):
        for other in found[:i]:
            if one.weights == other.weights:
                raise UserError(f"soup: expected different models, got the same model in {one.path} and {other.path}.")
    return found


def check_candidates(candidates: Sequence[SoupCandidate]) -> None:
    """Check that models have the same architecture, surgery, classes and preprocessing.

    Raises:
        UserError: If two models differ. The message contains the first difference.
    """
    first = candidates[0]
    ours = dict(_properties(first))
    for other in candidates[1:]:
        theirs = dict(_properties(other))
        for name in [*ours, *(each for each in theirs if each not in ours)]:
            if ours.get(name) != theirs.get(name):
                raise _difference(first, other, name, _short(ours.get(name)), _short(theirs.get(name)))
        shapes = [{name: tuple(value.shape) for name, value in each.state.items()} for each in (first, other)]
        odd = sorted(name for name in shapes[0].keys() | shapes[1].keys() if shapes[0].get(name) != shapes[1].get(name))
        if odd:
            raise _difference(first, other, f"the tensor {odd[0]}", *(each.get(odd[0], "missing") for each in shapes))


def _difference(first: SoupCandidate, other: SoupCandidate, name: str, ours: object, theirs: object) -> UserError:
    return UserError(
        f"soup: {first.path} and {other.path} cannot be averaged, because {name} is {ours} in the first and "
        f"{theirs} in the second."
    )


def shared_data(candidates: Sequence[SoupCandidate]) -> Any:
    """Return the data module of the first candidate, on which all candidates are evaluated.

    Raises:
        UserError: If the data of a run is not available or has changed. If a model was trained on validation or test
            images of the first candidate.
    """
    modules: list[tuple[Any, Any]] = []
    for each in {candidate.run.path.resolve(): candidate for candidate in candidates}.values():
        key = data_key(each.run)
        known = next((data for other, data in modules if other == key), None)
        data = load_run_data(each.run) if known is None else known
        if known is None:
            modules.append((key, data))
        evaluation = modules[0][1]
        trained = _ids(data, "train")
        for split in ("val", "test"):
            if shared := trained & _ids(evaluation, split):
                name = {"val": "validation", "test": "test"}[split]
                raise UserError(
                    f"soup: {each.run.path} was trained on {len(shared):,} of the {name} images of "
                    f"{candidates[0].run.path} ({min(shared)}). Use runs with the same splits."
                )
    return modules[0][1]


def _is_derived(run: RunFolder) -> bool:
    """Return True if a run was made from other runs instead of being trained from a config."""
    return run.parent is not None or bool(run.environment.get("variant"))


def _properties(candidate: SoupCandidate) -> Iterator[tuple[str, Any]]:
    loaded = candidate.loaded
    specs: Mapping[str, Any] = loaded.specs.without_initial_values().to_dict()
    for part, spec in specs.items():
        if part in _PARTS:
            yield from _arguments(part, spec)
        elif part not in ("normalize", "init"):
            registry = registry_of("model", part)
            yield f"the part `{part}`", spec if registry is None else complete_spec(registry, spec)
    surgery = surgery_of(loaded.classifier)
    if any(step["step"] == "qat" for step in surgery):
        raise UserError(
            f"soup: expected a model without quantization-aware training, whose ranges cannot be averaged, got "
            f"{candidate.path}."
        )
    yield "the surgery", surgery
    yield (
        "the mean and standard deviation of the images",
        [[round(value, 6) for value in getattr(loaded.classifier, name).tolist()] for name in ("mean", "std")],
    )
    facts = loaded.facts
    yield "the list of classes", facts.class_names
    yield "the side of the images", facts.image_size
    yield "the number of channels", facts.channels
    yield "the list of evaluation transforms", list(facts.eval_transforms)


def _arguments(part: str, spec: Spec) -> Iterator[tuple[str, Any]]:
    """Yield the name of a backbone or a head, and its arguments including defaults."""
    registry = _PARTS[part]
    name, given = registry.parse(spec)
    untagged = name.partition(".")[0]  # the tag of a timm name specifies weights
    yield f"the {part}", untagged if part == "backbone" and untagged in registry else name
    parameters = registry.entry(name).parameters
    defaults = {key: each.default for key, each in parameters.items() if each.default is not each.empty}
    for key, value in (defaults | given).items():
        if key not in _TRAINING_ARGUMENTS:
            yield f"`{key}` of the {part}", value


def _ids(data: Any, split: str) -> set[str]:
    ids = data.source.ids
    return {ids[row] for row in getattr(data.splits, split).tolist()}


def _short(value: Any) -> str:
    text = config_value(list(value) if isinstance(value, tuple) else value)
    return text if len(text) <= 200 else f"{text[:200]}…"
