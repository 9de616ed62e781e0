"""Description of a network inside its own file."""

from __future__ import annotations

import json
from pathlib import Path

from imgrec.export.description import ModelDescription
from imgrec.export.formats.registry import format_of_suffix

DESCRIPTION, TEXT = "description", "description_text"
"""Names of the entries: the description as JSON, and as sentences. In ONNX they have the prefix ``imgrec.``."""


def embed_description(file: Path, description: ModelDescription) -> None:
    """Write a description into a network file, in place. See ``embed`` of the format for its location.

    Args:
        file: Network file of a registered format.
        description: Description, see :func:`imgrec.export.description.describe_network`.
    """
    values = {
        DESCRIPTION: json.dumps(description.to_dict(), ensure_ascii=False, allow_nan=False),
        TEXT: description.to_text(),
    }
    format_of_suffix(file.suffix).embed(file, values)
