"""Folders of classes: the folder that an image lies in is its label."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from imgrec.data.decode import IMAGE_SUFFIXES, decode_image, file_size, file_state
from imgrec.data.purpose import is_evaluation
from imgrec.data.source import SOURCES, SPLITS, Source
from imgrec.errors import UserError
from imgrec.files import locate

logger = logging.getLogger(__name__)

SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
"""What folders of splits may be called, in lower case."""


@SOURCES.register("folder")
class Folder(Source):
    """Image files in one folder a class, and these in one folder a split, or in no split at all.

    ``root/train/cat/1.jpg``, with ``val`` (or ``valid``, ``validation``) and ``test`` beside ``train`` if they exist;
    or ``root/cat/1.jpg``. Folders inside a class belong to it. The classes are the folders' names, sorted as text;
    those of ``train`` where there are splits. Hidden files and folders are passed over, and so are files whose ending
    is no image's; a warning counts the latter.

    Args:
        root: the folder; a relative one is looked up in the current folder, then under ``IMGREC_DATA``.

    Raises:
        UserError: there is no such folder, no image in it or in a class, one class only, or a split has a class that
            ``train`` lacks.

    Example::

        source: {name: folder, root: cifar10}
    """

    def __init__(self, root: str) -> None:
        self.root = locate(root, "data folder")
        if not self.root.is_dir():
            raise UserError(f"{self.root} is a file; a folder of class folders is needed.")
        found = _Scan(self.root)
        self._files = found.files
        if found.other:
            endings = ", ".join(f"{ending or 'none'} ({count})" for ending, count in found.other.most_common(5))
            logger.warning(
                "%s: %d files are no images by their ending and are left out: %s",
                self.root,
                found.other.total(),
                endings,
            )
        super().__init__(
            ids=[file.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace") for file in found.files],
            targets=found.targets,
            class_names=found.class_names,
            splits=found.splits,
        )

    def load(self, index: int) -> Tensor:  # noqa: D102
        return decode_image(self.path(index), self.ids[index])

    def path(self, index: int) -> Path:  # noqa: D102
        return self.root / self._files[index]

    def content(self) -> Iterator[bytes]:  # noqa: D102
        for file in self._files:
            yield file_size(self.root / file).to_bytes(8, "little")

    def state(self) -> Iterator[bytes]:  # noqa: D102
        for file in self._files:
            yield file_state(self.root / file)


class _Scan:
    """The image files below a folder, in the order of their names, with class and split."""

    def __init__(self, root: Path) -> None:
        self.files: list[str] = []
        self.targets: list[int] = []
        self.splits: list[str | None] = []
        self.other: Counter[str] = Counter()
        folders = _split_folders(root) or {None: root}
        self.class_names = _class_folders(folders.get("train", root))
        if is_evaluation():
            self.class_names = sorted({name for folder in folders.values() for name in _class_folders(folder)})
        place = folders.get("train", root)
        if not self.class_names:
            raise UserError(
                f"no class folder in {place}: images are expected in {root.name}/<class>/ or "
                f"{root.name}/train/<class>/."
            )
        for split, folder in folders.items():
            self._add_split(folder, split, "" if folder == root else f"{folder.name}/")
        if not self.files:
            raise UserError(f"no image at all in {root}, in none of its {len(self.class_names)} class folders.")
        counts = Counter(t for t, s in zip(self.targets, self.splits, strict=True) if s in (None, "train"))
        empty = [name for target, name in enumerate(self.class_names) if not counts[target]]
        if empty and not is_evaluation():
            named = ", ".join(f'"{name}"' for name in empty[:5])
            raise UserError(f"no image in {place} of the class {named}{_more(empty)}.")

    def _add_split(self, folder: Path, split: str | None, prefix: str) -> None:
        numbers = {name: target for target, name in enumerate(self.class_names)}
        names = _class_folders(folder)
        strange = [name for name in names if name not in numbers]
        if strange:
            raise UserError(
                f'{folder} has a folder "{strange[0]}"{_more(strange, 1)}, and the training images have no such '
                f"class. Accepted: {', '.join(self.class_names[:20])}{_more(self.class_names, 20)}."
            )
        around = os.path.realpath(folder)
        for name in names:
            files = sorted(self._images(folder / name, f"{prefix}{name}/", (around,)))
            self.files += files
            self.targets += [numbers[name]] * len(files)
            self.splits += [split] * len(files)

    def _images(self, folder: Path, prefix: str, above: tuple[str, ...]) -> Iterator[str]:
        here = os.path.realpath(folder)
        if here in above or above[0].startswith(os.path.join(here, "")):  # noqa: PTH118 - strings are compared
            logger.warning("%s leads back to a folder that it lies in, and is passed over", folder)
            return
        with os.scandir(folder) as entries:
            for entry in entries:
                name = entry.name
                if name.startswith("."):
                    continue
                if _is_folder(entry):
                    yield from self._images(folder / name, f"{prefix}{name}/", (*above, here))
                    continue
                suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122 - a Path for each file takes twice as long
                if suffix in IMAGE_SUFFIXES:
                    yield prefix + name
                else:
                    self.other[suffix] += 1


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a symbolic link to itself
        return False


def _class_folders(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(e.name for e in entries if not e.name.startswith(".") and _is_folder(e))
    except PermissionError as error:
        raise UserError(f"{folder} may not be read: permission denied.") from error


def _split_folders(root: Path) -> dict[str | None, Path]:
    """The folders of splits, ``train`` first; empty where the layout is one folder of class folders."""
    names = _class_folders(root)
    found: dict[str | None, Path] = {}
    for name in names:
        split = SPLIT_FOLDERS.get(name.lower())
        if split in found:
            raise UserError(f"{root} has two folders for the split {split}: {found[split].name} and {name}.")
        if split is not None:
            found[split] = root / name
    if is_evaluation() and found and len(found) == len(names):
        return {split: found[split] for split in SPLITS if split in found and _class_folders(found[split])}
    if "train" in found and _class_folders(found["train"]):
        return {split: found[split] for split in SPLITS if split in found}
    if found and len(found) == len(names):
        missing = "no train folder" if "train" not in found else "no class folder in its train folder"
        raise UserError(f"{root} has {', '.join(names)}, and {missing}: expected is {root.name}/train/<class>/.")
    return {}


def _more(names: list[str], shown: int = 5) -> str:
    return f" and {len(names) - shown} more" if len(names) > shown else ""
