"""Shard files of a data set: search by folder or pattern, and the split of each file by its name."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from imgrec.data.sources.file_names import in_system_entry
from imgrec.data.splits.names import find_split, unknown_split
from imgrec.errors import UserError
from imgrec.utils.paths import check_regular, data_root, locate

Paths = str | list[str] | dict[str, str | list[str]]
"""A file, a folder, a pattern, a list of these, or a mapping from splits to these."""

_MAGIC = re.compile(r"[*?\[{]")
_RANGE = re.compile(r"^(\d+)\.\.(\d+)$")


class Shard(NamedTuple):
    """A shard file: its path, its name relative to the folder or the fixed part of the pattern, and its split."""

    path: Path
    name: str
    split: str | None


def find_shards(paths: Paths, suffix: str, kind: str) -> list[Shard]:
    """Return the shard files in the order of the arguments, and then of their names.

    A folder means all files with this suffix in it and in its subfolders. A pattern may contain ``*``, ``?`` and
    ``**``, as in a shell, and braces. ``{a,b}`` and ``{0000..0009}`` mean each of the listed files, which must exist.
    Relative paths are looked up in the current folder, then under ``IMGREC_DATA``.

    The split is the key in a mapping, otherwise a word in the file name (``train-00000.parquet``,
    ``faces_val.parquet``), otherwise the name of a parent folder. Either all files have a split or none.

    Args:
        paths: Files, folders and patterns.
        suffix: Suffix of the files in a folder: ``".parquet"``.
        kind: Description of the files in messages: ``"parquet file"``.

    Raises:
        UserError: If no file is found, if a split is unknown, or if only some files have a split.
    """
    if isinstance(paths, Mapping):
        found = []
        for word, given in paths.items():
            split = find_split(word)
            if split is None:
                raise UserError(unknown_split(word))
            found += [Shard(path, name, split) for path, name in _files(given, suffix, kind)]
    else:
        found = [Shard(path, name, _split(name)) for path, name in _files(paths, suffix, kind)]
    found = list({shard.path: shard for shard in found}.values())
    for shard in found:
        _check_file(shard.path, kind)
    if not found:
        raise UserError(f"path: expected a {kind}, got none.")
    without = [shard.name for shard in found if shard.split is None]
    if without and len(without) < len(found):
        raise UserError(
            f"path: expected a split in all file names or in none, got {len(without)} of {len(found)} files without "
            f"one, for example {without[0]}. Use `{{train: PATTERN, test: PATTERN}}`."
        )
    return found


def expand_braces(pattern: str) -> list[str]:
    """Expand braces in a pattern as a shell does.

    >>> expand_braces("{train,val}-{08..10}.tar")[:4]
    ['train-08.tar', 'train-09.tar', 'train-10.tar', 'val-08.tar']
    """
    start = pattern.find("{")
    end = pattern.find("}", start)
    if start < 0 or end < 0:
        return [pattern]
    inside = pattern[start + 1 : end]
    numbers = _RANGE.match(inside)
    if numbers:
        first, last = numbers.groups()
        choices = [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]
    else:
        choices = inside.split(",")
    return [pattern[:start] + choice + rest for choice in choices for rest in expand_braces(pattern[end + 1 :])]


def _files(paths: str | Sequence[str], suffix: str, kind: str) -> Iterator[tuple[Path, str]]:
    """Yield each file and its name relative to the folder or the fixed part of the pattern."""
    for given in [paths] if isinstance(paths, str) else paths:
        fixed = _fixed(given)
        for pattern in expand_braces(given):
            below = "/".join(Path(pattern).parts[len(fixed.parts) :])
            if glob.has_magic(pattern):
                matches = _matches(pattern)
                if not matches:
                    raise UserError(f"no {kind} matches {pattern}, neither here nor under IMGREC_DATA.")
                yield from ((match, "/".join(match.parts[len(match.parts) - depth :])) for match, depth in matches)
                continue
            place = locate(pattern, kind)
            if not place.is_dir():
                yield place, below if _MAGIC.search(given) else place.name
                continue
            inside = sorted(path for path in place.rglob(f"*{suffix}") if not in_system_entry(path.relative_to(place)))
            if not inside:
                raise UserError(f"no {kind} in the folder {place}: no file has the suffix {suffix}.")
            yield from ((path, path.relative_to(place).as_posix()) for path in inside)


def _matches(pattern: str) -> list[tuple[Path, int]]:
    """Return the matching files, each with the number of path parts after the fixed part of the pattern."""
    given = os.path.expanduser(pattern)  # noqa: PTH111 - a Path would change the pattern
    root = data_root()
    for start in [given, *([str(root / given)] if root is not None else [])]:
        found = sorted(Path(match) for match in glob.glob(start, recursive=True))  # noqa: PTH207
        files = [path for path in found if path.is_file()]
        if files:
            return [(path, len(path.parts) - len(_fixed(start).parts)) for path in files]
    return []


def _fixed(pattern: str) -> Path:
    """Return the leading folder of a pattern, before the first part with a special character."""
    parts = Path(pattern).expanduser().parts
    varying = next((i for i, part in enumerate(parts) if _MAGIC.search(part)), len(parts) - 1)
    return Path(*parts[:varying])


def _check_file(path: Path, kind: str) -> None:
    """Raise :class:`UserError` for a path that must not be opened: a named pipe, a device or a socket."""
    try:
        check_regular(path)
    except OSError as error:
        raise UserError(f"{kind}: {error}.") from error


def _split(name: str) -> str | None:
    path = Path(name)
    words = re.split(r"[^a-z]+", path.name.partition(".")[0].lower())
    found = {split for word in words if (split := find_split(word)) is not None}
    if len(found) > 1:
        raise UserError(f"the file name {name} contains two splits. Use `{{train: PATTERN, test: PATTERN}}`.")
    if found:
        return found.pop()
    return next((split for part in reversed(path.parent.parts) if (split := find_split(part)) is not None), None)
