"""A whole trained classifier, to start from or to learn from: out of a run folder, a checkpoint or a model folder."""

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
from imgrec.models.pretrained.loading import load_exactly, read_config
from imgrec.trust import reading, refuse_unless_trusted
from imgrec.types import DataFacts
from imgrec.utils.paths import locate

_PREFIX = "model."
"""Where a classifier's tensors stand in a task's state dict."""


def find_origin(path: str | os.PathLike[str], where: str = "init_from") -> Path:
    """The model folder or checkpoint that ``path`` means, looked up here and under ``IMGREC_DATA``.

    Of a run folder it is its model folder, else its best checkpoint, else its last.

    Args:
        path: a run folder, a ``.ckpt`` file or a model folder.
        where: the place in the config, for messages.

    Raises:
        UserError: nothing of the kind is there.
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
    """The classifier at ``path`` in evaluation mode on the CPU, with its surgery, facts and specs.

    Args:
        path: see :func:`find_origin`.
        where: the place in the config, for messages.

    Raises:
        UserError: nothing is there, it cannot be read, or how its network is built is code and not a spec.
    """
    found = find_origin(path, where)
    return read_model_folder(found) if found.is_dir() else _from_checkpoint(found)


def read_specs(path: str | os.PathLike[str], where: str = "init_from") -> ClassifierSpecs | None:
    """The specs of the classifier at ``path``, without its weights; ``None`` of a folder that imgrec did not write.

    Raises:
        UserError: nothing is there, it cannot be read, or how its network is built is code and not a spec.
    """
    found = find_origin(path, where)
    with reading(found):
        if found.is_dir():
            own = read_config(found).get("imgrec")
            specs = own.get("specs") if isinstance(own, Mapping) else None
            return ClassifierSpecs.of(specs, f"{where}: {path}") if isinstance(specs, Mapping) else None
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
    """What a file of torch's holds, without running code that is in it.

    Raises:
        UserError: it cannot be read so, or is no mapping.
    """
    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise UserError(f"{path} is no checkpoint that can be read") from error
    if not isinstance(found, Mapping):
        raise UserError(f"{path} is no checkpoint: it holds a {type(found).__name__}")
    return found


def origin_of(path: Any) -> str:
    """Return the name of what is opened, for messages: a path, or a file that is open already."""
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
        return ClassifierSpecs.known_to(known), DataFacts.from_dict(known["facts"])
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} does not say by specs how its network is built: {error} is missing") from error
