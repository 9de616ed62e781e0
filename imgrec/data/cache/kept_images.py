"""The decoded images that a data module keeps: one cache a plan, shared by the splits where it can be."""

from __future__ import annotations

from typing import Literal

from imgrec.augment import Pipeline
from imgrec.data.cache.plan import plan_cache
from imgrec.data.cache.policy import CacheMode, Table, cached_images
from imgrec.data.cache.storage import CachedImages
from imgrec.data.sources.base import SPLITS, Source
from imgrec.data.sources.view import View
from imgrec.registry import Spec


class KeptImages:
    """Says for a pipeline where its images come from, and builds the cache when it is first asked.

    Args:
        source: the images, as the data module sees them.
        spec: the source's spec, for what the cache says of itself.
        mode: whether and where decoded images are kept.
        channels: channels of the images in a batch.
        pipelines: those of training and of evaluation. Where both need the same of an image, they share one cache.
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

    def of(self, pipeline: Pipeline, splits: set[str | None]) -> tuple[CachedImages | None, Pipeline]:
        """The cache for a pipeline, ``None`` where nothing is kept, and what of the pipeline is left to do.

        Args:
            pipeline: what happens to each image.
            splits: what the source says of the images that will be asked for.
        """
        if self._source.in_memory or self._mode == "off":
            return None, pipeline
        whole = Table.of(self._source, {None, *SPLITS})
        probes = whole.probe()
        shapes = [(image.shape[-2], image.shape[-1]) for image in probes]
        plan = plan_cache(pipeline, self._channels, shapes)
        shared = len({plan_cache(each, self._channels, shapes).describe() for each in self._pipelines}) == 1
        if plan.describe() not in self._caches:
            table = whole if shared else Table.of(self._source, splits)
            self._caches[plan.describe()] = cached_images(table, plan, self._mode, probes, self._spec)
        images = self._caches[plan.describe()]
        return images, pipeline if images is None else plan.rest


def evaluated_splits(source: Source) -> set[str | None]:
    """What a source says of images that may be evaluated: validation images may come out of the training's.

    Of a view the source below it is asked, as for what is cached: it knows nothing of splits that the view decided.
    """
    while isinstance(source, View):
        source = source.base
    return {"val", "test"} if "val" in source.splits else {None, "train", "val", "test"}
