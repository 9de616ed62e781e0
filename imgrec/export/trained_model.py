"""Reading of a trained classifier from a run folder, a checkpoint or a model folder."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from imgrec.compress.surgery import rebuild
from imgrec.errors import UserError
from imgrec.export.model_folder.load import Loaded, read_model_folder
from imgrec.export.model_folder.preprocessing import check_preprocessing
from imgrec.export.model_folder.save import CONFIG
from imgrec.models import ClassifierSpecs
from imgrec.models.pretrained.loading import load_exactly, read_model_config
from imgrec.trust import reading, refuse_unless_trusted
from imgrec.types import DataFacts
from imgrec.utils.paths import locate

_PREFIX = "model."
"""Prefix of the tensors of a classifier in the state dict of a task."""


def find_origin(path: str | os.PathLike[str], where: str = "init_from") -> Path:
    """Return the model folder or checkpoint that a path refers to.

    For a run folder this is its model folder. If it has none, it is its best checkpoint, or its last one. A relative
    path is relative to the current folder or to ``IMGREC_DATA``.

    Args:
        path: Run folder, ``.ckpt`` file or model folder.
        where: Key in the config, for messages.

    Raises:
        UserError: If there is none.
    """
    found = locate(Path(path), f"{where}: run folder, checkpoint or model folder")
    if found.is_file() or (found / CONFIG).is_file():
        return found
    inside = (found / "model", found / "checkpoints" / "best.ckpt", found / "checkpoints" / "last.ckpt")
    for each in inside:
        if (each / CONFIG).is_file() or each.is_file():
            return each
    raise UserError(
        f"{where}: {found} is no run folder with a trained model, no checkpoint and no model folder: looked for "
        f"{CONFIG}, {', '.join(each.relative_to(found).as_posix() for each in inside)} in it"
    )


def read_origin(path: str | os.PathLike[str], where: str = "init_from") -> Loaded:
    """Read the classifier at ``path`` with its surgery, facts and specs. It is in evaluation mode on the CPU.

    Args:
        path: Path of a trained model, see :func:`find_origin`.
        where: Key in the config, for messages.

    Raises:
        UserError: If nothing is found, it cannot be read, or its network was built by code instead of specs.
    """
    found = find_origin(path, where)
    return read_model_folder(found) if found.is_dir() else _from_checkpoint(found)


def read_specs(path: str | os.PathLike[str], where: str = "init_from") -> ClassifierSpecs | None:
    """Read the specs of the classifier at ``path``, without its weights. Return ``None`` for a folder of timm.

    Raises:
        UserError: If nothing is found, it cannot be read, or its network was built by code instead of specs.
    """
    found = find_origin(path, where)
    with reading(found):
        if found.is_dir():
            own = read_model_config(found).get("imgrec")
            specs = own.get("specs") if isinstance(own, Mapping) else None
            return ClassifierSpecs.from_dict(specs, f"{where}: {path}") if isinstance(specs, Mapping) else None
        return _known(_read(found), found)[0]


def _from_checkpoint(path: Path) -> Loaded:
    checkpoint = _read(path)
    with reading(path), torch.random.fork_rng(devices=[]):
        specs, facts = _known(checkpoint, path)
        check_preprocessing(facts, str(path))
        built = specs.build(facts, False, str(path))
        surgery = checkpoint.get("imgrec", {}).get("surgery", [])
        classifier: Any = rebuild(built, surgery, f"{path}: the surgery in it")
        weights = checkpoint["state_dict"].items()
        state = {k.removeprefix(_PREFIX): v for k, v in weights if k.startswith(_PREFIX)}
        load_exactly(classifier, state, f"the weights in {path}")
    return Loaded(classifier.eval(), facts, specs)


def read_any(path: Path) -> Mapping[str, Any]:
    """Read a file of torch without running code that is in it.

    Raises:
        UserError: If it cannot be read in this way or contains no mapping.
    """
    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise UserError(f"{path} is no readable checkpoint") from error
    if not isinstance(found, Mapping):
        raise UserError(f"{path} is no checkpoint: it holds a {type(found).__name__}")
    return found


def origin_of(path: Any) -> str:
    """Return a name of the source for messages: its path, or a general name for an open file."""
    return os.fspath(path) if isinstance(path, str | os.PathLike) else "the checkpoint"


def refuse_instantiator(path: Any) -> None:
    """Raise if a checkpoint names a function that Lightning would import and call to build the object.

    Raises:
        UserError: If it does, or the file cannot be read.
    """
    if not isinstance(path, str | os.PathLike):
        return
    checkpoint = read_any(Path(path))
    for key in ("hyper_parameters", "datamodule_hyper_parameters", "hparams", "module_arguments"):
        given = checkpoint.get(key)
        if isinstance(given, Mapping) and "_instantiator" in given:
            place = f"{key}._instantiator: got {given['_instantiator']!r}"
            refuse_unless_trusted(place, "Lightning would import and call it")


def _read(path: Path) -> Mapping[str, Any]:
    found = read_any(path)
    if "state_dict" not in found:
        raise UserError(f"{path} is no checkpoint: it holds no state_dict")
    return found


def _known(checkpoint: Mapping[str, Any], path: Path) -> tuple[ClassifierSpecs, DataFacts]:
    known: Mapping[str, Any] = checkpoint.get("hyper_parameters", {})
    try:
        return ClassifierSpecs.from_arguments(known), DataFacts.from_dict(known["facts"])
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} does not contain the specs of its network: {error} is missing") from error
