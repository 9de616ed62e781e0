"""Decoded images of a data module: one cache for each plan, shared by the splits if their plans are equal."""

from __future__ import annotations

from typing import Literal

from imgrec.augment import Pipeline
from imgrec.data.cache.plan import plan_cache
from imgrec.data.cache.policy import CacheMode, Table, open_cache
from imgrec.data.cache.storage import CachedImages
from imgrec.data.sources.base import SPLITS, Source, SourceView
from imgrec.errors import UserError
from imgrec.registry import Spec


class SplitCaches:
    """Caches of the images of a source, built when a split is first used.

    Args:
        source: Images of the data module.
        spec: Spec of the source, stored in the description of a cache.
        mode: Location of the decoded images.
        channels: Channels of the images in a batch.
        pipelines: Transforms of training and of evaluation. If both have the same plan, they share one cache.
    """

    def __init__(
        self,
        source: Source,
        spec: Spec,
        mode: CacheMode,
        channels: Literal[1, 3],
        pipelines: tuple[Pipeline, Pipeline],
    ) -> None:
        self._source = source
        self._spec = spec
        self._mode = mode
        self._channels: Literal[1, 3] = channels
        self._pipelines = pipelines
        self._caches: dict[str, CachedImages | None] = {}
        if mode == "disk" and not source.is_deterministic:
            raise UserError(
                "data.cache: expected auto, memory or off for a torch Dataset, got disk. A later run could "
                "not recognize its items."
            )

    def open(self, pipeline: Pipeline, splits: set[str | None]) -> tuple[CachedImages | None, Pipeline]:
        """Return the cache for a pipeline, or ``None`` without one, and the transforms that remain to be applied.

        Args:
            pipeline: Transforms of single images.
            splits: Splits that the source gives to the images that will be used.
        """
        if self._source.in_memory or self._mode == "off":
            return None, pipeline
        if self._mode == "auto" and not self._source.is_deterministic:
            return None, pipeline
        whole = Table.from_source(self._source, {None, *SPLITS})
        probes = whole.probe()
        shapes = [(image.shape[-2], image.shape[-1]) for image in probes]
        plan = plan_cache(pipeline, self._channels, shapes)
        shared = len({plan_cache(each, self._channels, shapes).describe() for each in self._pipelines}) == 1
        if plan.describe() not in self._caches:
            table = whole if shared else Table.from_source(self._source, splits)
            self._caches[plan.describe()] = open_cache(table, plan, self._mode, probes, self._spec)
        images = self._caches[plan.describe()]
        return images, pipeline if images is None else plan.rest


def evaluation_splits(source: Source) -> set[str | None]:
    """Return the given splits of images that can be evaluated. Validation images can be a part of the training images.

    The splits are those of the source below all views, because a cache does not depend on the splits of a view.
    """
    while isinstance(source, SourceView):
        source = source.base
    return {"val", "test"} if "val" in source.splits else {None, "train", "val", "test"}
