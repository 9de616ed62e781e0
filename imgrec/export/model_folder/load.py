"""Reading of model folders of imgrec and of timm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from imgrec.compress.surgery import rebuild
from imgrec.errors import UserError
from imgrec.export.model_folder.layout import from_timm, has_same_logits, linear_name
from imgrec.export.model_folder.preprocessing import check_preprocessing, from_timm_config
from imgrec.export.model_folder.save import VERSION, WEIGHTS
from imgrec.models import Classifier, ClassifierSpecs
from imgrec.models.backbones.timm import create_from_folder
from imgrec.models.pretrained.loading import load_exactly, read_model_config, read_state
from imgrec.trust import reading
from imgrec.types import DataFacts


class Loaded(NamedTuple):
    """A classifier in evaluation mode on the CPU, the facts of its data, and the specs that it was built from."""

    classifier: Classifier
    facts: DataFacts
    specs: ClassifierSpecs


def load_model_folder(folder: str | Path) -> tuple[Classifier, DataFacts]:
    """Return the classifier of a model folder, in evaluation mode on the CPU, and the facts of its data.

    See :func:`read_model_folder`, which also returns its specs.
    """
    found = read_model_folder(folder)
    return found.classifier, found.facts


def read_model_folder(folder: str | Path) -> Loaded:
    """Return the classifier of a model folder with the facts and the specs that it was built from.

    The internet is not accessed and no code is unpickled. A pruned network is rebuilt from the record of its surgery
    in config.json, without the pruning library.

    A folder written by timm is also accepted. The preprocessing is read from its ``pretrained_cfg``. The classes are
    its ``label_names``, or ``"0"``, ``"1"``, ... if it has none. The number of training images per class is set to 0.

    Raises:
        UserError: If it is no model folder, a file is missing or damaged, or it was written by a newer imgrec.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"model folder not found: {folder}")
    with reading(folder), torch.random.fork_rng(devices=[]):  # parameters are initialized before they are loaded
        config = read_model_config(folder)
        if not (folder / WEIGHTS).is_file():
            raise UserError(f"{folder} is no complete model folder: it holds no {WEIGHTS}")
        found = _ours(folder, config) if "imgrec" in config else _timms(folder, config)
        check_preprocessing(found.facts, str(folder))
        return found


def _ours(folder: Path, config: dict[str, Any]) -> Loaded:
    own = config["imgrec"]
    version = own.get("version") if isinstance(own, Mapping) else None
    if not isinstance(version, int):
        raise UserError(f'{folder}: the section "imgrec" of its config.json has no version')
    if version > VERSION:
        raise UserError(
            f"{folder} was written by a newer imgrec (model folder version {version}, this one reads up to {VERSION})"
        )
    try:
        specs, facts = ClassifierSpecs.from_dict(own["specs"], f"{folder}"), DataFacts.from_dict(own["facts"])
        normalize = {key: config["pretrained_cfg"][key] for key in ("mean", "std")}
        layout = own["layout"]
    except (KeyError, TypeError) as error:
        raise UserError(f'{folder}: the section "imgrec" of its config.json is incomplete: {error}') from error
    state = read_state(folder / WEIGHTS)
    if layout == "timm":
        state = from_timm(state, config["pretrained_cfg"]["classifier"])
    classifier = replace(specs, normalize=normalize).build(facts, False, str(folder))
    rebuilt = rebuild(classifier, own.get("surgery", []), f"{folder}: the surgery in its config.json")
    return Loaded(_filled(rebuilt, state, folder), facts, specs)


def _timms(folder: Path, config: dict[str, Any]) -> Loaded:
    cfg = config["pretrained_cfg"]
    architecture = config["architecture"]
    try:
        state = read_state(folder / WEIGHTS)
        network: Any = create_from_folder(architecture, cfg, config.get("model_args") or {}, state)
    except UserError as error:
        raise UserError(f"{folder}/config.json: {error}") from error
    except Exception as error:  # timm raises exceptions of many classes on an inconsistent folder
        raise UserError(f"{folder} cannot be loaded by timm: {str(error).strip()[:500]}") from error
    classifier = linear_name(network)
    if classifier is None:
        raise UserError(f'{folder}: "{architecture}" has no linear classifier, which imgrec requires')
    channels, _, size = map(int, network.pretrained_cfg.get("input_size", (3, 224, 224)))
    facts = DataFacts(
        class_names=_class_names(cfg.get("label_names"), network.num_classes, folder),
        class_counts=(0,) * network.num_classes,
        image_size=size,
        channels=channels,
        eval_transforms=from_timm_config(network.pretrained_cfg),
    )
    own = {k: v for k, v in (config.get("model_args") or {}).items() if k not in ("in_chans", "img_size")}
    normalize = {key: list(network.pretrained_cfg[key]) for key in ("mean", "std")}
    specs = ClassifierSpecs({"name": architecture, **own} if own else architecture, "linear", normalize)
    built = specs.build(facts, False, str(folder))
    filled = _filled(built, from_timm(network.state_dict(), classifier), folder)
    if not has_same_logits(filled, network, facts):
        raise UserError(f'{folder}: "{architecture}" does more after its features than one linear layer')
    return Loaded(filled, facts, specs)


def _filled(classifier: nn.Module, state: dict[str, Tensor], folder: Path) -> Any:
    own = classifier.state_dict()
    buffers = {
        key: own[key] for key in ("mean", "std") if key not in state
    }  # stored in the config in the layout of timm
    dtypes = {value.dtype for value in state.values() if value.is_floating_point()}
    if len(dtypes) == 1:
        classifier.to(dtypes.pop())
    load_exactly(classifier, {**buffers, **state}, f"the weights in {folder}")
    return classifier.eval()


def _class_names(names: Any, num_classes: int, folder: Path) -> tuple[str, ...]:
    if names is None:
        return tuple(map(str, range(num_classes)))
    if isinstance(names, Mapping):
        names = [names.get(str(i), str(i)) for i in range(num_classes)]
    if len(names) != num_classes:
        raise UserError(f"{folder}: its config.json names {len(names)} classes, its network has {num_classes}")
    return tuple(map(str, names))
