"""The layout of a folder of images: splits, classes, image files, and the entries that are left out."""

from __future__ import annotations

import logging
import os
import stat
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from imgrec.data.decoding.image import IMAGE_SUFFIXES
from imgrec.data.purpose import is_evaluation
from imgrec.data.sources.base import SPLITS
from imgrec.data.sources.file_names import class_name, is_system_entry
from imgrec.data.splits.names import SPLIT_NAMES, find_split
from imgrec.errors import UserError

logger = logging.getLogger(__name__)


class FolderScan:
    """The image files below a folder, sorted by name, with class and split.

    Excluded entries, except system entries, are logged as a warning.

    Args:
        root: Folder.

    Raises:
        UserError: If a folder cannot be read, or if there is no class folder or no image. If a class has no training
            image, or a split has a class that ``train`` lacks.
    """

    def __init__(self, root: Path) -> None:
        self.files: list[str] = []
        self.targets: list[int] = []
        self.splits: list[str | None] = []
        self._root = root
        self._other: Counter[str] = Counter()
        self._special: list[str] = []
        self._levels: dict[str, tuple[bool, frozenset[str]]] = {}
        folders = self._split_folders() or {None: root}
        train = folders.get("train", root)
        self.class_names = list(_class_folders(train))
        if is_evaluation():
            self.class_names = sorted({name for folder in folders.values() for name in _class_folders(folder)})
        if not self.class_names:
            raise UserError(
                f"no class folder in {train}: images are expected in {root.name}/<class>/ or "
                f"{root.name}/train/<class>/."
            )
        for split, folder in folders.items():
            self._add_split(folder, split, "" if folder == root else f"{folder.name}/")
        self._check(train)
        if None in folders:
            self._check_for_splits()
        self._warn()

    def _split_folders(self) -> dict[str | None, Path]:
        """Return the folder of each split, ``train`` first, or the root alone if there are no splits."""
        root = self._root
        names = _subfolders(root)
        found: dict[str | None, Path] = {}
        for name in names:
            split = find_split(name)
            if split in found:
                raise UserError(f"{root} has two folders for the split {split}: {found[split].name} and {name}.")
            if split is not None:
                found[split] = root / name
        if is_evaluation() and found and len(found) == len(names):
            labeled: dict[str | None, Path] = {
                split: found[split] for split in SPLITS if split in found and _subfolders(found[split])
            }
            for folder in found.values():
                if folder not in labeled.values():
                    self._warn_of_loose_images(folder, flat=True)
            return labeled
        if "train" in found and _subfolders(found["train"]):
            self._warn_of_loose_images(root)
            unknown = [name for name in names if find_split(name) is None]
            if unknown:
                logger.warning(
                    "%s: left out, because these folders are not named like a split: %s. Names of splits: %s.",
                    root,
                    _listed(unknown),
                    ", ".join(SPLIT_NAMES),
                )
            return {split: found[split] for split in SPLITS if split in found}
        if found and len(found) == len(names):
            missing = "no train folder" if "train" not in found else "no class folder in its train folder"
            raise UserError(f"{root} has {', '.join(names)}, and {missing}: expected is {root.name}/train/<class>/.")
        return {None: root}

    def _add_split(self, folder: Path, split: str | None, prefix: str) -> None:
        numbers = {name: target for target, name in enumerate(self.class_names)}
        found = _class_folders(folder)
        strange = [name for name in found if name not in numbers]
        if strange:
            raise UserError(
                f'{folder} has a folder "{strange[0]}"{_more(strange, 1)}, and the training images have no such '
                f"class. Accepted: {', '.join(self.class_names[:20])}{_more(self.class_names, 20)}."
            )
        self._warn_of_loose_images(folder, flat=not found)
        around = os.path.realpath(folder)
        for name in sorted(found):
            for entry in found[name]:
                files = sorted(self._images(folder / entry, f"{prefix}{entry}/", (around,)))
                self.files += files
                self.targets += [numbers[name]] * len(files)
                self.splits += [split] * len(files)

    def _images(self, folder: Path, prefix: str, above: tuple[str, ...]) -> Iterator[str]:
        here = os.path.realpath(folder)
        if here in above or above[0].startswith(os.path.join(here, "")):  # noqa: PTH118 - strings are compared
            logger.warning("%s links to one of its parent folders, and is skipped", folder)
            return
        direct, inside = False, []
        for entry in _entries(folder):
            name = entry.name
            if _is_folder(entry):
                inside.append(name)
                yield from self._images(folder / name, f"{prefix}{name}/", (*above, here))
                continue
            suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122 - a Path for each file takes twice as long
            if suffix not in IMAGE_SUFFIXES:
                self._other[suffix] += 1
            elif _is_special(entry):
                self._special.append(prefix + name)
            else:
                direct = True
                yield prefix + name
        if len(above) == 1:
            self._levels[folder.name] = (direct, frozenset(inside))

    def _check(self, train: Path) -> None:
        if not self.files:
            raise UserError(f"no image at all in the {len(self.class_names)} class folders of {self._root}.")
        counts = Counter(t for t, s in zip(self.targets, self.splits, strict=True) if s in (None, "train"))
        empty = [name for target, name in enumerate(self.class_names) if not counts[target]]
        if empty and not is_evaluation():
            named = ", ".join(f'"{name}"' for name in empty[:5])
            raise UserError(f"no image in {train} of the class {named}{_more(empty)}.")

    def _check_for_splits(self) -> None:
        """Refuse or report a layout of splits whose names are not recognized and which were taken for classes.

        Folders look like splits if they hold no image directly and have two or more subfolders in common.
        """
        deep = {name: inside for name, (direct, inside) in self._levels.items() if inside and not direct}
        common = sorted(frozenset.intersection(*deep.values())) if len(deep) > 1 else []
        if len(common) < 2:
            return
        message = (
            f"{self._root}: the folders {_listed(sorted(deep))} look like splits, because all of them have the "
            f"subfolders {_listed(common)}. Names of splits: {', '.join(SPLIT_NAMES)}. One of them must be train."
        )
        if any(find_split(name) for name in deep):
            raise UserError(message)
        logger.warning("%s They are used as classes.", message)

    def _warn_of_loose_images(self, folder: Path, flat: bool = False) -> None:
        loose = sum(
            os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122
            for entry in _entries(folder)
            if not _is_folder(entry)
        )
        if flat and loose:
            logger.warning(
                "%s has %d images and no class folder: they have no labels and are left out. `imgrec predict` accepts "
                "this folder.",
                folder,
                loose,
            )
        elif flat:
            logger.warning("%s has no class folder and no image, and is left out.", folder)
        elif loose:
            logger.warning("%s: images outside of class folders are left out: %d.", folder, loose)

    def _warn(self) -> None:
        if self._other:
            endings = ", ".join(f"{ending or 'none'} ({count})" for ending, count in self._other.most_common(5))
            count = self._other.total()
            logger.warning(
                "%s: files without the ending of an image are left out: %d, by ending: %s", self._root, count, endings
            )
        if self._special:
            logger.warning(
                "%s: %d entries are named like images, but are named pipes, devices or sockets, and are left out: %s",
                self._root,
                len(self._special),
                _listed(self._special),
            )


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Yield the entries of a folder, without system entries."""
    try:
        with os.scandir(folder) as entries:
            yield from (entry for entry in entries if not is_system_entry(entry.name))
    except PermissionError as error:
        raise UserError(f"{folder} may not be read: permission denied.") from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a symbolic link to itself
        return False


def _is_special(entry: os.DirEntry[str]) -> bool:
    """Return True if an entry is a named pipe, a device or a socket. A broken link is an unreadable image."""
    try:
        return not entry.is_file() and not stat.S_ISREG(entry.stat().st_mode)
    except OSError:
        return False


def _subfolders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in _entries(folder) if _is_folder(entry))


def _class_folders(folder: Path) -> Mapping[str, list[str]]:
    """Return the folders of each class, in the order of the class names. NFC and NFD spellings are one class."""
    found: dict[str, list[str]] = {}
    for name in _subfolders(folder):
        printable = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        found.setdefault(class_name(printable), []).append(name)
    return dict(sorted(found.items()))


def _listed(names: list[str], shown: int = 5) -> str:
    return ", ".join(names[:shown]) + _more(names, shown)


def _more(names: list[str], shown: int = 5) -> str:
    return f" and {len(names) - shown} more" if len(names) > shown else ""
