"""Index of a tar file, stored next to it, for random access without unpacking."""

from __future__ import annotations

import hashlib
import logging
import os
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from imgrec.data.sources.file_names import in_system_entry
from imgrec.errors import UserError
from imgrec.trust import current
from imgrec.utils.paths import written_aside

logger = logging.getLogger(__name__)

_VERSION = "2"
_TEXT_SUFFIXES = (".cls", ".json", ".txt")
_MAX_TEXT = 2**20
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstandard"}


@dataclass(frozen=True)
class TarIndex:
    """The files in a tar file, in their order.

    Args:
        names: Names of the files.
        offsets: Positions of their contents, in bytes, int64 ``(files,)``.
        sizes: Their sizes, in bytes, int64 ``(files,)``.
        texts: Contents of the small text files with labels, ``None`` for other files.
    """

    names: list[str]
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    texts: list[str | None]


def tar_index(path: Path) -> TarIndex:
    """Return the index of a tar file, from the stored index if the tar file did not change since, otherwise by a scan.

    The index is stored as ``.<name>.index`` next to the tar file. If that folder is not writable, it is stored below
    ``IMGREC_CACHE`` or ``~/.cache/imgrec``. An unreadable index is replaced.

    Raises:
        UserError: If it is no tar file, or if it is compressed, which prevents random access.
    """
    places = (path.parent / f".{path.name}.index", _below_cache(path))
    state = _state(path)
    for place in places:
        found = _load(place, state)
        if found is not None:
            return found
    index = _scan(path)
    for place in places if current() is None else places[1:]:  # reading received data writes no file next to it
        try:
            _save(index, place, state)
        except OSError as error:
            logger.info("the index of %s is not stored as %s: %s", path, place, error.strerror)
        else:
            break
    return index


def _scan(path: Path) -> TarIndex:
    with path.open("rb") as file:
        head = file.read(6)
    kind = next((kind for magic, kind in _COMPRESSED.items() if head.startswith(magic)), None)
    if kind is not None:
        raise UserError(f"{path} is compressed ({kind}), which prevents random access to its images. Decompress it.")
    names: list[str] = []
    places: list[tuple[int, int]] = []
    texts: list[str | None] = []
    try:
        with tarfile.open(path, "r:") as tar:
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # otherwise all members would stay in memory
                if not member.isfile() or in_system_entry(member.name):
                    continue
                names.append(member.name.removeprefix("./"))
                places.append((member.offset_data, member.size))
                is_text = member.name.lower().endswith(_TEXT_SUFFIXES) and member.size <= _MAX_TEXT
                texts.append(_text(tar, member) if is_text else None)
    except tarfile.TarError as error:
        if not names:
            raise UserError(f"{path} cannot be read as a tar file: {error}.") from error
        logger.warning("%s ends too early (%s): the %d files found in it are used", path, error, len(names))
    offsets, sizes = np.asarray(places, dtype=np.int64).reshape(-1, 2).T
    return TarIndex(names, offsets, sizes, texts)


def _text(tar: tarfile.TarFile, member: tarfile.TarInfo) -> str | None:
    file = tar.extractfile(member)
    return file.read().decode("utf-8", "replace") if file is not None else None


def _state(path: Path) -> dict[bytes, bytes]:
    stat = path.stat()
    return {b"imgrec.tar_index": _VERSION.encode(), b"imgrec.of": f"{stat.st_size} {stat.st_mtime_ns}".encode()}


def _load(place: Path, state: dict[bytes, bytes]) -> TarIndex | None:
    try:
        table = pq.read_table(place, partitioning=None)
    except (OSError, pa.ArrowException):
        return None
    metadata = table.schema.metadata or {}
    if any(metadata.get(key) != value for key, value in state.items()):
        return None
    return TarIndex(
        names=table["name"].to_pylist(),
        offsets=table["offset"].to_numpy(),
        sizes=table["size"].to_numpy(),
        texts=table["text"].to_pylist(),
    )


def _save(index: TarIndex, place: Path, state: dict[bytes, bytes]) -> None:
    table = pa.table(
        {
            "name": pa.array(index.names, pa.string()),
            "offset": index.offsets,
            "size": index.sizes,
            "text": pa.array(index.texts, pa.string()),
        }
    )
    with written_aside(place) as aside:
        pq.write_table(table.replace_schema_metadata(state), aside)


def _below_cache(path: Path) -> Path:
    root = os.environ.get("IMGREC_CACHE")
    folder = Path(root) if root else Path.home() / ".cache" / "imgrec"
    name = hashlib.blake2b(str(path.resolve()).encode("utf-8", "surrogateescape"), digest_size=12).hexdigest()
    return folder / "tar-index" / f"{name}.parquet"
