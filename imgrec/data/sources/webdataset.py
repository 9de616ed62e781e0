"""Tar files of images and labels in the layout of WebDataset."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor

from imgrec.data.decoding.image import IMAGE_SUFFIXES, BadImage, decode_image, readable
from imgrec.data.labels import ClassNames, read_labels, warn_of_unlabelled
from imgrec.data.sources.base import SOURCES, Source
from imgrec.data.sources.shards import Paths, find_shards
from imgrec.data.sources.tar_index import TarIndex, tar_index
from imgrec.errors import UserError
from imgrec.utils import json_text

logger = logging.getLogger(__name__)


@SOURCES.register("tar")
class TarShards(Source):
    """Uncompressed tar files in which the files of one sample have one name: ``000123.jpg`` and ``000123.cls``.

    The name of a sample ends at the first dot. The label is a number or text in ``.cls``, or the value of a key in
    ``.json``, where a list of labels means multi-label targets. The other numbers and texts in ``.json`` and the text
    in ``.txt`` are in ``columns``. Samples without a label are excluded with a warning.

    The positions of the files are stored next to each tar file (see
    :func:`imgrec.data.sources.tar_index.tar_index`). The number of images is therefore available, each image can be
    read by itself, and training shuffles all images instead of a buffer. Rows are in the order of the files, so that a
    pass in order reads each tar file sequentially. The id of an image is the name of its tar file and its own name.

    Args:
        path: Tar file, folder, pattern such as ``data-{0000..0009}.tar``, or list of these. A mapping
            ``{train: ..., test: ...}`` sets the splits. Otherwise the split is a word in the name of the file or of a
            folder.
        image: Suffix of the image, without a dot. Defaults to the only image suffix of a sample.
        label: File of the label, ``cls`` or ``json``. Defaults to ``cls`` if there is one, otherwise ``json``.
        label_key: Key of the label in ``.json``. Defaults to ``label``.
        classes: Names of the classes in their order. A number is an index into them. Defaults to the labels that occur.

    Raises:
        UserError: If there is no such file, if a file is no tar file or is compressed, or if no image has a label.

    Source: Aizman, Maltby and Breuel 2019, "High performance I/O for large scale deep learning", IEEE Big Data,
    arXiv 2001.01858 (the layout).

    Example::

        source: {name: tar, path: shards/train-*.tar}
    """

    def __init__(
        self,
        path: Paths,
        image: str | None = None,
        label: Literal["cls", "json"] | None = None,
        label_key: str = "label",
        classes: ClassNames | None = None,
    ) -> None:
        shards = find_shards(path, ".tar", "tar file")
        with ThreadPoolExecutor(min(8, len(shards))) as pool:
            indexes = list(pool.map(lambda shard: tar_index(shard.path), shards))
        self._paths = [shard.path for shard in shards]
        self._places: list[tuple[int, int, int]] = []  # shard, offset, size
        ids: list[str] = []
        splits: list[str | None] = []
        labels: list[Any] = []
        about: list[dict[str, Any]] = []
        for number, (shard, index) in enumerate(zip(shards, indexes, strict=True)):
            for key, files in _samples(index).items():
                ending = _image_ending(files, image, shard.path, key)
                if ending is None:
                    continue
                place = files[ending]
                ids.append(f"{shard.name.removesuffix('.tar')}/{key}")
                splits.append(shard.split)
                self._places.append((number, int(index.offsets[place]), int(index.sizes[place])))
                texts = {name: index.texts[i] for name, i in files.items()}
                found, more = _label(texts, label, label_key, ids[-1])
                labels.append(found)
                about.append(more)
        if not ids:
            wanted = f'a file ".{image}"' if image else "an image"
            raise UserError(
                f"no image at all: {shards[0].path} and {len(shards) - 1} more hold no sample with {wanted}."
            )
        read = read_labels(labels, ids, classes)
        warn_of_unlabelled(len(ids) - len(read.rows), len(ids), str(shards[0].path))
        rows = read.rows.tolist()
        self._places = [self._places[row] for row in rows]
        names = sorted({name for row in rows for name in about[row]})
        super().__init__(
            ids=[ids[row] for row in rows],
            targets=read.targets,
            class_names=read.class_names,
            splits=[splits[row] for row in rows],
            columns={name: _column([about[row].get(name) for row in rows]) for name in names},
        )

    def load(self, index: int) -> Tensor:  # noqa: D102
        number, offset, size = self._places[index]
        with readable(self.ids[index]):
            with self._paths[number].open("rb") as file:
                file.seek(offset)
                data = file.read(size)
            if len(data) < size:
                raise BadImage(f"{self._paths[number].name} ends before the image does")
            return decode_image(data)

    def content(self) -> Iterator[bytes]:  # noqa: D102
        yield np.asarray(self._places, dtype="<i8").tobytes()

    def state(self) -> Iterator[bytes]:  # noqa: D102
        for path in self._paths:
            yield f"{path.stat().st_size} {path.stat().st_mtime_ns} ".encode()


def _samples(index: TarIndex) -> dict[str, dict[str, int]]:
    """Return the files of each sample by their suffix after the first dot, in lower case."""
    samples: dict[str, dict[str, int]] = {}
    for number, name in enumerate(index.names):
        folder, slash, base = name.rpartition("/")
        stem, _, ending = base.partition(".")
        samples.setdefault(folder + slash + stem, {})[ending.lower()] = number
    return samples


def _image_ending(files: dict[str, int], given: str | None, path: Path, key: str) -> str | None:
    if given is not None:
        return given.lower().lstrip(".") if given.lower().lstrip(".") in files else None
    found = [ending for ending in files if f".{ending}" in IMAGE_SUFFIXES]
    if len(found) > 1:
        raise UserError(f"{path}: expected one image in {key}, got .{', .'.join(found)}. Select one with `image`.")
    return found[0] if found else None


def _label(
    texts: dict[str, str | None], given: Literal["cls", "json"] | None, key: str, name: str
) -> tuple[Any, dict[str, Any]]:
    """Return the label of a sample, ``None`` if it has none, and its further columns."""
    more: dict[str, Any] = {} if texts.get("txt") is None else {"txt": texts["txt"]}
    label: Any = None
    text = texts.get("json")
    if text is not None:
        try:
            values = json_text.loads(text)
        except json.JSONDecodeError as error:
            raise UserError(f"{name}.json is not JSON: {error}.") from error
        if isinstance(values, dict):
            label = values.get(key) if given != "cls" else None
            more |= {k: v for k, v in values.items() if k != key and isinstance(v, str | int | float)}
    text = texts.get("cls")
    if text is not None and given != "json":
        label = text.strip()
        label = int(label) if label.removeprefix("-").isdecimal() else label or None
    return label, more


def _column(values: list[Any]) -> Any:
    kinds = {type(value) for value in values}
    return np.asarray(values, dtype=None if len(kinds) == 1 and str not in kinds else object)
