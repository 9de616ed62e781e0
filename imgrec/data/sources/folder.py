"""Folders of classes: the name of the folder of an image is its label."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from imgrec.data.decoding.image import decode_image, file_size, file_state
from imgrec.data.sources.base import SOURCES, Source
from imgrec.data.sources.folder_scan import FolderScan
from imgrec.data.splits.names import SPLIT_NAMES
from imgrec.errors import UserError
from imgrec.utils.paths import locate

SPLIT_FOLDERS = SPLIT_NAMES
"""Accepted names of split folders, in lower case: another name of :data:`imgrec.data.splits.names.SPLIT_NAMES`."""


@SOURCES.register("folder")
class Folder(Source):
    """Image files in one folder per class, and optionally these in one folder per split.

    The layouts are ``root/cat/1.jpg`` and ``root/train/cat/1.jpg``. In the second, the folders of the other splits are
    the same folder as ``train``. Names in upper or lower case are accepted:

    - ``train``, ``training``
    - ``val``, ``valid``, ``validation``, ``dev``, ``devel``, ``development``, ``eval``, ``evaluation``
    - ``test``, ``testing``

    The classes are the folder names, sorted as text: those of ``train`` if there are splits. Two Unicode spellings of
    one name (NFC, NFD) are one class. Folders inside a class belong to this class.

    Hidden entries and those of operating systems (``__MACOSX``, ``lost+found``, ``@eaDir``, ``Thumbs.db``) are
    ignored. See :func:`imgrec.data.sources.file_names.is_system_entry`. All other excluded entries are logged with
    their count:

    - files without an image suffix, named pipes, devices and sockets
    - images without a class folder, splits without class folders, and folders that are not named like a split

    Args:
        root: Folder. A relative path is looked up in the current folder, then under ``IMGREC_DATA``.

    Raises:
        UserError: If there is no such folder, or if it has fewer than two classes. If a class has no image, a split has
            a class that ``train`` lacks, or folders of splits would be classes.

    Example::

        source: {name: folder, root: cifar10}
    """

    def __init__(self, root: str) -> None:
        self.root = locate(root, "data folder")
        if not self.root.is_dir():
            raise UserError(f"{self.root}: expected a folder of class folders, got a file.")
        found = FolderScan(self.root)
        self._files = found.files
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
