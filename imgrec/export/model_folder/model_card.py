"""Model card of a model folder: network, input, output and use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from imgrec.export.description import ModelDescription
from imgrec.models import ClassifierSpecs
from imgrec.utils import yaml

_SHOWN_CLASSES = 100
_NOTE = "> **Note:** "
_CHANGES = {
    "channels": "channels were removed",
    "blocks": "residual blocks were removed",
    "qat": "it was trained for quantization to int8",
}


def model_card(
    architecture: str,
    described: ModelDescription,
    is_timm: bool,
    text: str | None,
    specs: ClassifierSpecs,
    surgery: Sequence[Mapping[str, Any]] = (),
) -> str:
    """Return the text of README.md, with the header that model hubs read.

    Args:
        architecture: Name of the backbone.
        described: Input, output and included operations of the network, with the facts of the training data.
        is_timm: True if timm can load the folder.
        text: Remarks of the author in Markdown, or ``None``.
        specs: Specs that the network was built from.
        surgery: Changes of the network after it was built, see :func:`imgrec.compress.surgery_of`.
    """
    facts = described.facts
    shown = [f"{i}. {_plain(name)}" for i, name in enumerate(facts.class_names[:_SHOWN_CLASSES])]
    left = facts.num_classes - len(shown)
    parts = [
        "---\n"
        f"library_name: {'timm' if is_timm else 'imgrec'}\n"
        "pipeline_tag: image-classification\n"
        "tags:\n- image-classification\n- imgrec\n"
        "---",
        f"# {architecture}, {facts.num_classes} classes",
        (text or "").strip(),
        "## Network",
        f"```yaml\n{yaml.dump(specs.without_initial_values().to_dict()).strip()}\n```",
        _changed(surgery),
        "## Input and output",
        "`imgrec.load` prepares image files itself. For an export of this network (`exports/` in its run folder: ONNX, "
        "OpenVINO, int8), prepare images as follows. The file of the export and its `export.json` contain the same "
        "description.",
        described.to_text(),
        "## Use",
        '```python\nimport imgrec\n\nimgrec.load("path/to/this/folder").predict(["image.jpg"])\n```',
        _TIMM if is_timm else "",
        "## Classes",
        "\n".join(shown) + (f"\n\nand {left} more, in `config.json`." if left else ""),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


_TIMM = """timm's network does not include the normalization. Only there, apply mean and std of `pretrained_cfg` in
`config.json` to the images:

```python
import timm

model = timm.create_model("local-dir:path/to/this/folder", pretrained=True).eval()
```"""


def mark_card(text: str, note: str) -> str:
    r"""Return the text of a model card with a note below its title, which replaces an earlier note.

    >>> mark_card(mark_card("# net\n\nText.\n", "Old."), "New.")
    '# net\n\n> **Note:** New.\n\nText.\n'
    """
    lines = [line for line in text.split("\n") if not line.startswith(_NOTE)]
    title = next((at for at, line in enumerate(lines) if line.startswith("# ")), -1)
    rest = "\n".join(lines[title + 1 :]).lstrip("\n")
    return "\n".join([*lines[: title + 1], "", f"{_NOTE}{note}", "", rest]).lstrip("\n")


def _changed(surgery: Sequence[Mapping[str, Any]]) -> str:
    done = dict.fromkeys(_CHANGES.get(step["step"], step["step"]) for step in surgery)
    return f"Since it was built, {', then '.join(done)}. `config.json` stores how to rebuild it." if done else ""


def _plain(name: str) -> str:
    return "".join(f"\\{c}" if c in "\\`*_[]<>#" else c for c in " ".join(name.split()))
