"""The model card of a model folder: what it is, what it takes, how it is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from imgrec import yaml12
from imgrec.models import ClassifierSpecs
from imgrec.types import DataFacts

_SHOWN_CLASSES = 100
_CHANGES = {
    "channels": "channels were taken out",
    "blocks": "residual blocks were taken out",
    "qat": "it was trained to be rounded to int8",
}


def model_card(
    architecture: str,
    facts: DataFacts,
    is_timm: bool,
    text: str | None,
    specs: ClassifierSpecs,
    surgery: Sequence[Mapping[str, Any]] = (),
) -> str:
    """The text of README.md, with the header that model hubs read.

    Args:
        architecture: the backbone's name.
        facts: the data that the model was trained on.
        is_timm: whether timm can load the folder.
        text: what the maker has to say, in Markdown.
        specs: what the network was built from.
        surgery: what was done to it since; see :func:`imgrec.compress.surgery_of`.
    """
    shown = [f"{i}. {_plain(name)}" for i, name in enumerate(facts.class_names[:_SHOWN_CLASSES])]
    left = facts.num_classes - len(shown)
    colour = "grey" if facts.channels == 1 else "colour"
    parts = [
        "---\n"
        f"library_name: {'timm' if is_timm else 'imgrec'}\n"
        "pipeline_tag: image-classification\n"
        "tags:\n- image-classification\n- imgrec\n"
        "---",
        f"# {architecture}, {facts.num_classes} classes",
        (text or "").strip(),
        "## Network",
        f"```yaml\n{yaml12.dump(specs.without_source().to_dict()).strip()}\n```",
        _changed(surgery),
        "## Input",
        f"One {colour} image of {facts.image_size} x {facts.image_size} pixels. Mean, standard deviation, crop and "
        "interpolation stand in `config.json`; imgrec applies them by itself.",
        "## Use",
        '```python\nimport imgrec\n\nimgrec.load("path/to/this/folder").predict(["image.jpg"])\n```',
        _TIMM if is_timm else "",
        "## Classes",
        "\n".join(shown) + (f"\n\nand {left} more, in `config.json`." if left else ""),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


_TIMM = """With timm, on images that are normalized already:

```python
import timm

model = timm.create_model("local-dir:path/to/this/folder", pretrained=True).eval()
```"""


def _changed(surgery: Sequence[Mapping[str, Any]]) -> str:
    done = dict.fromkeys(_CHANGES.get(step["step"], step["step"]) for step in surgery)
    return f"Since it was built, {', then '.join(done)}: `config.json` says how it is built again." if done else ""


def _plain(name: str) -> str:
    return "".join(f"\\{c}" if c in "\\`*_[]<>#" else c for c in " ".join(name.split()))
