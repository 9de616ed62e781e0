"""Writing the shareable model folder."""

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
from imgrec.export.description import describe
from imgrec.export.model_folder.layout import Layout, layout_of
from imgrec.export.model_folder.model_card import model_card
from imgrec.export.model_folder.preprocessing import to_timm_config
from imgrec.models import Classifier, ClassifierSpecs
from imgrec.models.edits.base import fold_edits
from imgrec.registry import as_list
from imgrec.types import DataFacts
from imgrec.utils.paths import folder_aside

VERSION = 3
"""The newest version of the section ``imgrec`` in config.json: 3 where the specs are more than those of backbone and
head, else 2 where it holds a surgery, else 1."""

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"


def save_model_folder(
    folder: str | Path,
    classifier: Classifier,
    specs: ClassifierSpecs | Mapping[str, Any],
    facts: DataFacts,
    card: str | None = None,
) -> Path:
    """Write ``classifier`` as a folder that can be shared: model.safetensors, config.json and README.md.

    Where the classifier is a plain timm network with a linear head, the tensors have timm's names, and
    ``timm.create_model("local-dir:<folder>", pretrained=True)`` gives the same logits on normalized images. What
    changed a network after its specs built it, pruning for one, stands in config.json as plain data. Edits that are of
    use in training alone, LoRA for one, are folded into ordinary layers. In every case
    :func:`imgrec.export.load_model_folder` builds it again.

    Args:
        folder: a new or empty folder, or a model folder, which is replaced as a whole once the new one is complete.
        classifier: on any device.
        specs: those that it was built from, or the mapping of them: ``backbone``, ``head``, ``normalize`` and so on.
        facts: the data that it was built for.
        card: what the README is to say about it, in Markdown.

    Returns:
        The folder.

    Raises:
        UserError: the folder holds something else, or cannot be written.
    """
    folder = Path(folder)
    if folder.exists() and not _is_replaceable(folder):
        raise UserError(f"{folder} exists and is no model folder; a model is written to a new or an empty folder")
    classifier, specs = _folded(classifier, ClassifierSpecs.of(specs), facts)
    layout = layout_of(classifier, specs, facts)
    config = _config(classifier, layout, specs, facts)
    described = describe(facts, classifier.mean, classifier.std)
    with folder_aside(folder) as aside:
        save_file(layout.state, aside / WEIGHTS, metadata={"format": "pt"})
        (aside / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        text = model_card(layout.architecture, described, layout.is_timm, card, specs, surgery_of(classifier))
        (aside / CARD).write_text(text, encoding="utf-8")
    return folder


def _folded(classifier: Classifier, specs: ClassifierSpecs, facts: DataFacts) -> tuple[Classifier, ClassifierSpecs]:
    """The classifier without what was of use in training alone, and the specs of that one."""
    if specs.edits is None:
        return classifier, specs
    plain = copy.deepcopy(classifier)
    left = fold_edits(plain.backbone, specs.edits, facts.for_registry())
    same = len(left) == len(as_list(specs.edits))
    return (classifier, specs) if same else (plain, replace(specs, edits=left or None))


def _config(classifier: Classifier, layout: Layout, specs: ClassifierSpecs, facts: DataFacts) -> dict[str, Any]:
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
        "specs": specs.without_source().to_dict(),
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
    """The shortest decimals that are these float32 numbers again: 0.485, not 0.48500001430511475."""
    return [float(str(value)) for value in values.detach().cpu().float().numpy()]


def _is_replaceable(folder: Path) -> bool:
    return folder.is_dir() and {p.name for p in folder.iterdir()} <= {WEIGHTS, CONFIG, CARD}
