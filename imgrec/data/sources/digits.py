"""The smallest real images: scikit-learn's digits."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imgrec.data.sources.base import SOURCES, Source


@SOURCES.register("digits")
class Digits(Source):
    """1,797 handwritten digits of 8x8 grey pixels, which come with scikit-learn.

    Their 17 grey levels are spread over 0 to 255. There is no given split.

    Source: Alpaydin and Kaynak 1998, "Optical Recognition of Handwritten Digits", UCI, 10.24432/C50P49.

    Example::

        source: digits
    """

    def __init__(self) -> None:
        from sklearn.datasets import load_digits

        bunch = load_digits()
        self._images = torch.from_numpy(np.rint(bunch.images * (255 / 16)).astype(np.uint8))
        super().__init__(
            ids=[f"{i:04d}" for i in range(len(bunch.target))],
            targets=bunch.target,
            class_names=[str(name) for name in bunch.target_names],
            in_memory=True,
        )

    def load(self, index: int) -> Tensor:  # noqa: D102
        return self._images[index][None]

    def gather(self, rows: NDArray[np.int64]) -> Tensor:  # noqa: D102
        return self._images[torch.from_numpy(rows)][:, None]

    def content(self) -> Iterator[bytes]:  # noqa: D102
        yield self._images.numpy().tobytes()
