"""Writing of model folders."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from imgrec.compress.surgery import surgery_of
from imgrec.errors import UserError
from imgrec.export.description import describe_network
from imgrec.export.model_folder.layout import TensorLayout, select_layout
from imgrec.export.model_folder.model_card import model_card
from imgrec.export.model_folder.preprocessing import to_timm_config
from imgrec.models import Classifier, ClassifierSpecs
from imgrec.models.edits.base import fold_edits
from imgrec.registry import as_list
from imgrec.types import DataFacts
from imgrec.utils.paths import folder_aside

VERSION = 3
"""Newest version of the section ``imgrec`` in config.json.

Version 3 is written if there are specs other than backbone and head. Otherwise version 2 is written for a network with
surgery and version 1 for one without.
"""

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"


def save_model_folder(
    folder: str | Path,
    classifier: Classifier,
    specs: ClassifierSpecs | Mapping[str, Any],
    facts: DataFacts,
    card: str | None = None,
) -> Path:
    """Write a classifier to a folder that can be shared: model.safetensors, config.json and README.md.

    The tensors of a plain timm network with a linear head have the names of timm. For these,
    ``timm.create_model("local-dir:<folder>", pretrained=True)`` returns the same logits on normalized images.

    Surgery such as pruning is stored in config.json as plain data. Edits that are used in training only, such as LoRA,
    are folded into ordinary layers. :func:`imgrec.export.load_model_folder` rebuilds the network in every case.

    Args:
        folder: New or empty folder, or a model folder, which is replaced as a whole after the new one is complete.
        classifier: Classifier on any device.
        specs: Specs that it was built from, or their mapping with ``backbone``, ``head``, ``normalize`` and so on.
        facts: Facts of the data that it was built for.
        card: Remarks for README.md, in Markdown. Defaults to none.

    Returns:
        The folder.

    Raises:
        UserError: If the folder contains other files or cannot be written.
    """
    folder = Path(folder)
    if folder.exists() and not _is_replaceable(folder):
        raise UserError(f"{folder} exists and is no model folder. Name a new or an empty folder.")
    classifier, specs = _folded(classifier, ClassifierSpecs.from_dict(specs), facts)
    layout = select_layout(classifier, specs, facts)
    config = _config(classifier, layout, specs, facts)
    described = describe_network(facts, classifier.mean, classifier.std)
    with folder_aside(folder) as aside:
        save_file(layout.state, aside / WEIGHTS, metadata={"format": "pt"})
        (aside / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        text = model_card(layout.architecture, described, layout.is_timm, card, specs, surgery_of(classifier))
        (aside / CARD).write_text(text, encoding="utf-8")
    return folder


def _folded(classifier: Classifier, specs: ClassifierSpecs, facts: DataFacts) -> tuple[Classifier, ClassifierSpecs]:
    """Return the classifier without edits that are used in training only, and its specs."""
    if specs.edits is None:
        return classifier, specs
    plain = copy.deepcopy(classifier)
    left = fold_edits(plain.backbone, specs.edits, facts.for_registry())
    same = len(left) == len(as_list(specs.edits))
    return (classifier, specs) if same else (plain, replace(specs, edits=left or None))


def _config(classifier: Classifier, layout: TensorLayout, specs: ClassifierSpecs, facts: DataFacts) -> dict[str, Any]:
    network: Any = classifier.backbone.network
    cfg = getattr(network, "pretrained_cfg", {}) if layout.is_timm else {}
    preprocessing = {
        "input_size": [facts.channels, facts.image_size, facts.image_size],
        "fixed_input_size": bool(cfg.get("fixed_input_size", False)),
        **to_timm_config(facts.eval_transforms),
        "mean": _shortest(classifier.mean),
        "std": _shortest(classifier.std),
    }
    layers = {"pool_size": None, "first_conv": layout.first_conv, "classifier": layout.classifier}
    surgery = surgery_of(classifier)
    own = {
        "version": (2 if surgery else 1) if specs.is_plain else VERSION,
        "layout": "timm" if layout.is_timm else "classifier",
        "specs": specs.without_initial_values().to_dict(),
        "facts": facts.to_dict(),
        "note": "mean and std of pretrained_cfg are for timm. Exports in exports/ include the normalization: give them "
        "images in [0, 1], and do not apply mean and std again.",
        **({"surgery": surgery} if surgery else {}),
    }
    config: dict[str, Any] = {
        "architecture": layout.architecture,
        "num_classes": facts.num_classes,
        "num_features": (getattr(network, "num_features", None) if specs.is_plain else None) or classifier.feature_dim,
        "label_names": list(facts.class_names),
        "pretrained_cfg": {"custom_load": False, **preprocessing, "num_classes": facts.num_classes, **layers},
        "imgrec": own,
    }
    if layout.model_args:
        config["model_args"] = layout.model_args
    return config


def _shortest(values: Tensor) -> list[float]:
    """Return the shortest decimals that round to these float32 values: 0.485, not 0.48500001430511475."""
    return [float(str(value)) for value in values.detach().cpu().float().numpy()]


def _is_replaceable(folder: Path) -> bool:
    return folder.is_dir() and {p.name for p in folder.iterdir()} <= {WEIGHTS, CONFIG, CARD}
