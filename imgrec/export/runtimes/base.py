"""A network that can be called, in whatever it was opened; importing this imports no torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from imgrec.errors import UserError

Images = NDArray[np.floating[Any]]
Logits = NDArray[np.float32]


class Runtime(ABC):
    """A network that is ready: call it with images, get logits.

    Shapes: images float32 in [0, 1], ``(N, C, H, W)``; logits float32 ``(N, num_classes)``. Both lie in the memory of
    the host: what a GPU costs to reach is part of a call.

    Attributes:
        image_shape: ``(C, H, W)``; 0 where any length is accepted.
        batch_size: the one batch size that is accepted, or ``None`` for any.
        precision: ``fp32``, ``bf16``, ``fp16``, or ``int8``: what most of the arithmetic is done in.
    """

    kind: ClassVar[str]
    """Its name among :data:`RUNTIMES`."""

    image_shape: tuple[int, int, int]
    batch_size: int | None = None
    precision: str = "fp32"

    @abstractmethod
    def __call__(self, images: Images) -> Logits:
        """The logits of a batch."""

    @abstractmethod
    def close(self) -> None:
        """Give back what it holds; it cannot be called any more."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def check(self, images: Images) -> None:
        """Raise where a batch cannot be given to this network.

        Raises:
            UserError: another size of images, or of the batch, than it was made for.
        """
        if self.batch_size not in (None, len(images)):
            raise UserError(f"the network takes batches of {self.batch_size} only, and was given one of {len(images)}")
        lengths = zip(self.image_shape, images.shape[1:], strict=True)
        if any(own not in (0, given) for own, given in lengths):
            said = " x ".join(str(own or "any") for own in self.image_shape)
            raise UserError(f"the network takes images of {said}, and was given {images.shape[1:]}")
