"""Access to the data of a data module after its setup: source, splits, facts, images by id."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from functools import cached_property

import pytorch_lightning as pl
from torch import Tensor

from imgrec.data.decoding.image import BadImage
from imgrec.data.loader_factory import LoaderFactory
from imgrec.data.sources.base import Source
from imgrec.data.splits.assign import Splits
from imgrec.data.splits.reader import SplitReader
from imgrec.data.splits.table import SplitTable
from imgrec.types import DataFacts


class DataAccess(pl.LightningDataModule):
    """Data module whose source, splits and facts are available after :meth:`setup`."""

    _reader: SplitReader
    _ready: tuple[LoaderFactory, DataFacts] | None

    @property
    def source(self) -> Source:
        """The table of images, after :meth:`setup`."""
        return self._loaders.source

    @property
    def splits(self) -> Splits:
        """The rows of each split, after :meth:`setup`."""
        return self._loaders.splits

    @property
    def facts(self) -> DataFacts:
        """The properties of the data that a model requires, after :meth:`setup`."""
        return self._setup_result()[1]

    @cached_property
    def fingerprint(self) -> str:
        """Digest of the data and of the excluded images, based on :meth:`imgrec.data.Source.fingerprint`."""
        found = self.source.fingerprint()
        if not self._reader.excluded:
            return found
        return hashlib.blake2b("\0".join([found, *sorted(self._reader.excluded)]).encode(), digest_size=16).hexdigest()

    def split_sizes(self) -> dict[str, int]:
        """Return the number of images of ``train``, ``val`` and ``test``."""
        return self.splits.sizes()

    def load_images(self, ids: Iterable[str]) -> list[Tensor | None]:
        """Return images of the source by their ids: uint8 ``(1 or 3, height, width)``, ``None`` for unreadable ones."""
        found: list[Tensor | None] = []
        for name in ids:
            row = self._row_of.get(name)
            try:
                found.append(None if row is None else self.source.load(row))
            except BadImage:
                found.append(None)
        return found

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.source.ids)}

    def use_splits(self, table: SplitTable, changed: bool = False) -> None:
        """Use the split of a run instead of the split of the source or a random one.

        Images that the run does not have are left out, with one line in the log.

        Args:
            table: Split of the run.
            changed: If True, changed data is accepted. Images of the run keep their split, missing ones are left out,
                and new ones are in the split that they have without the table. Defaults to False.

        Raises:
            UserError: If images of the run are missing or differ. :meth:`setup` raises it, unless ``changed``.
        """
        self._reader = replace(self._reader, table=table, accept_changes=changed)
        self._ready = None
        self.__dict__.pop("fingerprint", None)
        self.__dict__.pop("_row_of", None)

    def split_table(self) -> SplitTable:
        """Return the samples of each split as a table, after :meth:`setup`."""
        return SplitTable.from_splits(self.source, self.splits)

    @property
    def _loaders(self) -> LoaderFactory:
        return self._setup_result()[0]

    def _setup_result(self) -> tuple[LoaderFactory, DataFacts]:
        if self._ready is None:
            raise RuntimeError("call setup() first: the data has not been read yet")
        return self._ready
