"""Files that a data set is cut into: found by folder or pattern, each with the split that its name says."""

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
"""A file, a folder or a pattern; several of them; or these by split."""

_MAGIC = re.compile(r"[*?\[{]")
_RANGE = re.compile(r"^(\d+)\.\.(\d+)$")


class Shard(NamedTuple):
    """One file: where it is, what it is called below the folder or the pattern's fixed part, and its split."""

    path: Path
    name: str
    split: str | None


def find_shards(paths: Paths, ending: str, what: str) -> list[Shard]:
    """The files that are meant, in the order given and of their names.

    A folder stands for the files with this ending in it and below it, a pattern for what matches: ``*``, ``?`` and
    ``**`` as in a shell, ``{a,b}`` and ``{0000..0009}`` for each of these, all of which must be there. Relative ones
    are looked up in the current folder, then under ``IMGREC_DATA``.

    The split is the key in a mapping; else a word in the file's name (``train-00000.parquet``,
    ``faces_val.parquet``); else the name of a folder on the way there. Either all files have a split or none.

    Args:
        paths: what was given.
        ending: the files' ending in a folder: ``".parquet"``.
        what: what is looked for, for messages: ``"parquet file"``.

    Raises:
        UserError: nothing is found, a split is unknown, or some files have a split and others none.
    """
    if isinstance(paths, Mapping):
        found = []
        for word, given in paths.items():
            split = find_split(word)
            if split is None:
                raise UserError(unknown_split(word))
            found += [Shard(path, name, split) for path, name in _files(given, ending, what)]
    else:
        found = [Shard(path, name, _split(name)) for path, name in _files(paths, ending, what)]
    found = list({shard.path: shard for shard in found}.values())
    for shard in found:
        _check_file(shard.path, what)
    if not found:
        raise UserError(f"no {what} is given.")
    without = [shard.name for shard in found if shard.split is None]
    if without and len(without) < len(found):
        raise UserError(
            f"{len(without)} of {len(found)} files belong to no split by their names, {without[0]} for one. Say which "
            "are which: `{train: PATTERN, test: PATTERN}`."
        )
    return found


def expand_braces(pattern: str) -> list[str]:
    """What a shell makes of braces.

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


def _files(paths: str | Sequence[str], ending: str, what: str) -> Iterator[tuple[Path, str]]:
    """Each file, and its name below the folder or the fixed part of the pattern."""
    for given in [paths] if isinstance(paths, str) else paths:
        fixed = _fixed(given)
        for pattern in expand_braces(given):
            below = "/".join(Path(pattern).parts[len(fixed.parts) :])
            if glob.has_magic(pattern):
                matches = _matches(pattern)
                if not matches:
                    raise UserError(f"no {what} matches {pattern}, neither here nor under IMGREC_DATA.")
                yield from ((match, "/".join(match.parts[len(match.parts) - depth :])) for match, depth in matches)
                continue
            place = locate(pattern, what)
            if not place.is_dir():
                yield place, below if _MAGIC.search(given) else place.name
                continue
            inside = sorted(path for path in place.rglob(f"*{ending}") if not in_system_entry(path.relative_to(place)))
            if not inside:
                raise UserError(f"no {what} in the folder {place}: none ends in {ending}.")
            yield from ((path, path.relative_to(place).as_posix()) for path in inside)


def _matches(pattern: str) -> list[tuple[Path, int]]:
    """The files that match, and how many of the last parts of each path lie below the pattern's fixed part."""
    given = os.path.expanduser(pattern)  # noqa: PTH111 - a Path would lose what glob needs
    root = data_root()
    for start in [given, *([str(root / given)] if root is not None else [])]:
        found = sorted(Path(match) for match in glob.glob(start, recursive=True))  # noqa: PTH207
        files = [path for path in found if path.is_file()]
        if files:
            return [(path, len(path.parts) - len(_fixed(start).parts)) for path in files]
    return []


def _fixed(pattern: str) -> Path:
    """The folder that a pattern begins with, before the first part that may vary."""
    parts = Path(pattern).expanduser().parts
    varying = next((i for i, part in enumerate(parts) if _MAGIC.search(part)), len(parts) - 1)
    return Path(*parts[:varying])


def _check_file(path: Path, what: str) -> None:
    """Raise :class:`UserError` for a path that must not be opened: a named pipe, a device or a socket."""
    try:
        check_regular(path)
    except OSError as error:
        raise UserError(f"{what}: {error}.") from error


def _split(name: str) -> str | None:
    path = Path(name)
    words = re.split(r"[^a-z]+", path.name.partition(".")[0].lower())
    found = {split for word in words if (split := find_split(word)) is not None}
    if len(found) > 1:
        raise UserError(f"the name {name} names two splits. Say which it is: `{{train: PATTERN, test: PATTERN}}`.")
    if found:
        return found.pop()
    return next((split for part in reversed(path.parent.parts) if (split := find_split(part)) is not None), None)
