"""Reading a source with its final labels and the split of each row, computed or stored."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lightning_utilities.core.rank_zero import rank_zero_only

from imgrec.data.sources.base import SOURCES, Source
from imgrec.data.splits.assign import Splits, check_splits, split_source
from imgrec.data.splits.table import SplitTable, with_classes
from imgrec.data.wrappers.class_mapping import ClassMapping, map_classes
from imgrec.data.wrappers.corrections import apply_corrections, relabelled
from imgrec.data.wrappers.training_split import with_stored_splits
from imgrec.errors import UserError
from imgrec.registry import Spec

logger = logging.getLogger(__name__)


@dataclass
class SplitReader:
    """Source and splits of a data module.

    Args:
        spec: Spec of the source.
        fractions: Validation and test fraction of each class, if the source gives no splits.
        seed: Seed of the random split.
        classes: Mapping of the classes. Defaults to all classes with their names.
        excluded: Ids to leave out.
        labels: New class names by id.
        table: Stored split of a run, which replaces the computed one. Defaults to none.
        accept_changes: True if the data may differ from the stored split. Defaults to False.
    """

    spec: Spec
    fractions: tuple[float, float]
    seed: int = 0
    classes: ClassMapping | None = None
    excluded: Sequence[str] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    table: SplitTable | None = None
    accept_changes: bool = False

    def build(self) -> Source:
        """Build the source. Sources that alter training images receive the fractions and the seed of the split.

        Raises:
            SpecError: If the source cannot be built.
        """
        val_fraction, test_fraction = self.fractions
        facts: dict[str, Any] = {"val_fraction": val_fraction, "test_fraction": test_fraction}
        return SOURCES.build(self.spec, "data.source", **facts, split_seed=self.seed)

    def read(self) -> tuple[Source, Splits]:
        """Return the source with its final labels, and the rows of each split.

        Raises:
            UserError: If a split cannot be made, or if the data differs from the stored split.
        """
        if self.table is None:
            return self._computed()
        if self.accept_changes:
            source, splits = self._computed()
            splits = self.table.merged(source, splits)
            check_splits(source, splits)
            return source, splits
        return self._stored(self.table)

    def _computed(self) -> tuple[Source, Splits]:
        source = map_classes(self.build(), self.classes)
        try:
            splits = split_source(source, *self.fractions, self.seed)
        except UserError as error:
            raise UserError(f"data.source: {error}") from error
        if self.excluded or self.labels:
            source, splits = apply_corrections(source, splits, self.excluded, self.labels)
        return source, splits

    def _stored(self, table: SplitTable) -> tuple[Source, Splits]:
        with with_stored_splits(table.split_of):
            everything = map_classes(self.build(), self.classes)
        source = with_classes(everything, table.class_names)
        if self.labels:
            source = relabelled(source, self.labels)
        if new := table.check(source, self.excluded):
            first, count = ", ".join(new[:3]) + (", ..." if len(new) > 3 else ""), len(new)
            count += len(everything) - len(source)  # images of classes that the run does not have
            rank_zero_only(logger.info)("data: ignoring %d images that the run does not have: %s", count, first)
        return source, table.splits_in(source)
