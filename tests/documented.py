"""The examples that registry entries show in their documentation."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from typing import Any

from imgrec.cli.commands.list_show import registry
from imgrec.utils import yaml

_EXAMPLE = re.compile(r"^Examples?:{1,2}[ \t]*\n(?:[ \t]*\n)*((?:[ \t]+\S.*(?:\n|\Z)|[ \t]*\n)+)", re.MULTILINE)
_TTA = "imgrec test RUN --tta "


def documented(plural: str, name: str) -> dict[str, Any] | None:
    """Return the YAML example of an entry, below the keys of its section, or ``None`` if it has none."""
    found = _EXAMPLE.search(registry(plural).entry(name).doc)
    if found is None:
        return None
    text = textwrap.dedent(found.group(1)).strip()
    if text.startswith(_TTA):
        return {"tta": yaml.parse(text.removeprefix(_TTA).strip("'"))}
    loaded = yaml.parse(text)
    assert isinstance(loaded, dict), f"{plural} {name}: the example is no mapping:\n{text}"
    return loaded["model"] if set(loaded) == {"model"} else loaded


def named(specs: Any) -> Iterator[str]:
    """Return all names in one or several specs, including nested ones."""
    if isinstance(specs, str):
        yield specs
    elif isinstance(specs, list):
        for each in specs:
            yield from named(each)
    elif isinstance(specs, dict):
        for each in specs.values():
            yield from named(each)
