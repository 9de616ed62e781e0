"""Read and write YAML with the scalars of YAML 1.2, and refuse mappings that lose a key."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from imgrec.errors import UserError


class YAMLKeyError(UserError):
    """YAML that is not plain data: a duplicate key, a key from a decimal comma, or aliases without an end."""


_TEXT_IN_12 = ("int", "float", "timestamp", "bool", "value")
"""Tags of YAML 1.1 whose patterns differ in YAML 1.2, or that YAML 1.2 does not have."""

_LARGEST = 1_000_000
"""Number of values that a document may have after its aliases are expanded."""

_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_NULL = "tag:yaml.org,2002:null"
_MERGE = "tag:yaml.org,2002:merge"


class _CheckedMappings:
    """A mixin that refuses duplicate keys and decimal commas before a mapping is constructed."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: dict[Any, yaml.Node] = {}
        before: yaml.Node | None = None
        for key_node, value_node in node.value:
            _refuse_decimal_comma(before, key_node, value_node)
            before = value_node
            if key_node.tag == _MERGE or not isinstance(key_node, yaml.ScalarNode):
                continue  # several merges are all merged; other keys are refused by PyYAML
            key = self.construct_object(key_node)  # type: ignore[attr-defined]
            if key in seen:
                lines = [each.start_mark.line + 1 for each in (seen[key], key_node)]
                where = f"line {lines[0]}" if lines[0] == lines[1] else f"lines {lines[0]} and {lines[1]}"
                raise YAMLKeyError(f"expected each key once in a mapping, got `{key_node.value}` twice ({where}).")
            seen[key] = key_node
        return super().construct_mapping(node, deep)  # type: ignore[misc,no-any-return]


def _refuse_decimal_comma(before: yaml.Node | None, key: yaml.Node, value: yaml.Node) -> None:
    """Refuse ``{lr: 0,001}``, which YAML reads as the keys ``lr`` and ``001``."""
    if (
        before is not None
        and before.tag in _NUMBERS
        and key.tag in _NUMBERS
        and (value.tag, value.value) == (_NULL, "")
    ):
        whole = f"{before.value},{key.value}"
        raise YAMLKeyError(
            f"line {key.start_mark.line + 1}: expected text as a key, got the number {key.value}. "
            f"Is `{whole}` a decimal comma? Write {whole.replace(',', '.')}."
        )


class _Loader(_CheckedMappings, yaml.SafeLoader):
    """YAML 1.2's scalars.

    ``1e-3`` is a float and ``010`` is ten. ``00:10:00``, ``2026-01-01``, ``on``, ``off``, ``yes`` and ``no`` are text.
    """

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        text = node.value.replace("_", "")
        return int(text, 16 if "x" in text else 10)


_Loader.yaml_implicit_resolvers = {
    first: kept
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
    if (kept := [(tag, regexp) for tag, regexp in found if tag.rpartition(":")[2] not in _TEXT_IN_12])
}
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"^[-+]?(?:\d[\d_]*|0x[\da-fA-F]+)$"), list("-+0123456789")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?(?:\d[\d_]*\.?[\d_]*|\.\d[\d_]*)(?:[eE][-+]?\d+)?$|^[-+]?\.(?:inf|Inf|INF)$|^\.(?:nan|NaN|NAN)$"
    ),
    list("-+0123456789."),
)


class _FastLoader(_CheckedMappings, getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """The same loader by libyaml, if it is installed: a resolved config in 2 ms instead of 15."""

    yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers
    yaml_constructors = _Loader.yaml_constructors


class _Dumper(yaml.SafeDumper):
    """A dumper that quotes a text if a reader of YAML 1.1 or of YAML 1.2 would read something other than text."""


_Dumper.yaml_implicit_resolvers = {
    first: [*yaml.SafeDumper.yaml_implicit_resolvers.get(first, []), *_Loader.yaml_implicit_resolvers.get(first, [])]
    for first in {*yaml.SafeDumper.yaml_implicit_resolvers, *_Loader.yaml_implicit_resolvers}
}


def load(text: str) -> Any:
    """Return the plain data in ``text``. No object is ever built.

    Raises:
        YAMLKeyError: If a mapping has a key twice, or a key that comes from a decimal comma, or an alias has no end.
        yaml.YAMLError: If it is not YAML.
        ValueError: If an explicit tag does not fit, as in ``!!int x``.

    >>> load("{lr: 1e-3, max_time: 00:10:00, cache: off}")
    {'lr': 0.001, 'max_time': '00:10:00', 'cache': 'off'}
    """
    try:
        try:
            data = yaml.load(text, Loader=_FastLoader)
        except yaml.YAMLError:
            data = yaml.load(text, Loader=_Loader)  # its messages show the line
        _refuse_unbounded(data)
    except RecursionError:
        raise YAMLKeyError("expected plain data, got mappings or lists that are nested too deeply.") from None
    return data


def _refuse_unbounded(data: Any) -> None:
    """Refuse aliases that contain themselves, or that expand to more than a million values."""
    sizes: dict[int, int] = {}
    open_now: set[int] = set()

    def size(value: Any) -> int:
        if not isinstance(value, dict | list):
            return 1
        if id(value) in open_now:
            raise YAMLKeyError("expected plain data, got an alias inside the value that it names.")
        if id(value) not in sizes:
            open_now.add(id(value))
            sizes[id(value)] = 1 + sum(map(size, value.values() if isinstance(value, dict) else value))
            open_now.remove(id(value))
        if sizes[id(value)] > _LARGEST:
            raise YAMLKeyError(f"expected at most {_LARGEST:,} values, got more after aliases are expanded.")
        return sizes[id(value)]

    size(data)


def read(path: str | Path, what: str = "config") -> Any:
    """Return the plain data in a YAML file.

    Args:
        path: the file.
        what: a noun for the file in messages.

    Raises:
        UserError: If the file cannot be read, is not YAML, or has a mapping that loses a key.
    """
    try:
        return load(Path(path).read_text(encoding="utf-8"))
    except YAMLKeyError as error:
        raise UserError(f"{what} {path}: {error}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{what} {path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"{what} {path}{line}: not YAML ({error.problem})") from error
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{what} {path}: not YAML ({error})") from error


def parse(text: str) -> Any:
    """Return a value as :func:`load` reads it; a text that is not YAML is returned as it is.

    Raises:
        YAMLKeyError: If a mapping has a key twice, or a key that comes from a decimal comma.

    >>> parse("1e-3"), parse("{broken")
    (0.001, '{broken')
    """
    try:
        return load(text)
    except YAMLKeyError:
        raise
    except (yaml.YAMLError, ValueError):  # ValueError: an explicit tag that does not fit, `!!int x`
        return text


def dump(data: Any) -> str:
    """Return plain data as YAML that :func:`load` reads back unchanged, with the keys in their order.

    >>> print(dump({"lr": 1e-05, "text": "1e3", "max_time": "00:10:00", "cache": "off"}), end="")
    lr: 1.0e-05
    text: '1e3'
    max_time: 00:10:00
    cache: 'off'
    """
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
