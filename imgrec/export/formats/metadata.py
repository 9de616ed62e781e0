"""The description of a network inside its own file: metadata of ONNX, rt_info of OpenVINO."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

from imgrec.export.description import ModelDescription
from imgrec.utils.optional import require
from imgrec.utils.paths import write_text, written_aside

DESCRIPTION, TEXT = "description", "description_text"
"""Names of the entries: the plain form as JSON, and the sentences. In ONNX they follow ``imgrec.``."""


def embed(file: Path, description: ModelDescription) -> None:
    """Write a description into the file of a network; nothing else in the file changes.

    In an ONNX file it is ``metadata_props``, with the keys ``imgrec.description`` and ``imgrec.description_text``. In
    an OpenVINO file it is ``rt_info``, below ``imgrec``.

    Args:
        file: a file ``.onnx`` or ``.xml``.
        description: see :func:`imgrec.export.description.describe`.
    """
    values = {
        DESCRIPTION: json.dumps(description.to_dict(), ensure_ascii=False, allow_nan=False),
        TEXT: description.to_text(),
    }
    _into_onnx(file, values) if file.suffix == ".onnx" else _into_openvino(file, values)


def _into_onnx(file: Path, values: dict[str, str]) -> None:
    onnx = require("onnx", "export", "ONNX export")
    model = onnx.load(str(file))
    kept = {entry.key: entry.value for entry in model.metadata_props if not entry.key.startswith("imgrec.")}
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, kept | {f"imgrec.{key}": value for key, value in values.items()})
    with written_aside(file) as aside:
        onnx.save(model, str(aside))


def _into_openvino(file: Path, values: dict[str, str]) -> None:
    root = ElementTree.fromstring(file.read_text(encoding="utf-8"))
    place = root.find("rt_info")
    if place is None:
        place = ElementTree.SubElement(root, "rt_info")
    own = place.find("imgrec")
    if own is not None:
        place.remove(own)
    own = ElementTree.SubElement(place, "imgrec")
    for key, value in values.items():
        ElementTree.SubElement(own, key, {"value": value})
    write_text(file, '<?xml version="1.0"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n")
