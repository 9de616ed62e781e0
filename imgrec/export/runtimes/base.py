"""Base class and registry of the runtimes that execute a network. Importing this module imports no torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from imgrec.errors import UserError
from imgrec.registry import Registry
from imgrec.utils.optional import require

if TYPE_CHECKING:
    from imgrec.types import DataFacts

Images = NDArray[np.floating[Any]]
Logits = NDArray[np.float32]


@dataclass(frozen=True)
class OpenOptions:
    """Options for opening a network in a runtime.

    Attributes:
        stored: Precision of the numbers in the file.
        precision: Precision to compute in, one of :attr:`Runtime.precisions`, or ``None`` for the runtime's default.
        threads: Number of threads, 1 or more.
        device: Device, for example ``cpu`` or ``cuda:0``.
        facts: Facts of the data of a PyTorch classifier.
    """

    stored: str = "fp32"
    precision: str | None = None
    threads: int = 1
    device: str = "cpu"
    facts: DataFacts | None = None


class Runtime(ABC):
    """Network that is open in a runtime and maps a batch of images to logits.

    A subclass declares its abilities in class attributes and opens the network in its constructor. Register it with
    ``@RUNTIMES.register("name")`` or as an entry point of the group ``imgrec.runtimes``. Every command that accepts a
    runtime then accepts it. Its module imports the package of the runtime inside the constructor only.

    Images are float32 in [0, 1], ``(N, C, H, W)``. Logits are float32, ``(N, num_classes)``. Both are in host memory,
    so that a call includes the transfer to and from a GPU.

    Args:
        network: Path of the file, or a classifier in PyTorch if :attr:`suffixes` is empty.
        options: Precision, threads and device.

    Attributes:
        kind: Name among :data:`RUNTIMES`, set by :func:`imgrec.export.runtimes.registry.open_runtime`.
        image_shape: ``(C, H, W)``, with 0 for a length that is not fixed.
        batch_size: The only accepted batch size, or ``None`` if any is accepted.
        precision: ``fp32``, ``bf16``, ``fp16`` or ``int8``: the precision of most of the arithmetic.
    """

    title: ClassVar[str]
    """Name in messages, tables and reports."""
    short_title: ClassVar[str]
    """Name in figures."""
    suffixes: ClassVar[tuple[str, ...]] = ()
    """Suffixes of the files that it opens, its own format first. Empty if it opens classifiers in PyTorch."""
    precisions: ClassVar[tuple[str, ...]] = ()
    """Precisions that it accepts as an option. Empty if the file alone determines the precision."""
    devices: ClassVar[tuple[str, ...]] = ("cpu",)
    """Types of devices that it runs on."""
    package: ClassVar[tuple[str, str] | None] = None
    """Module of its package and the extra that installs it, or ``None`` if imgrec itself requires the package."""
    is_measured_by_default: ClassVar[bool] = True
    """True if ``imgrec bench`` measures networks in it without ``--runtime``."""
    order: ClassVar[int] = 100
    """Position in lists and tables, ascending."""
    marker: ClassVar[str] = "v"
    """Marker of matplotlib in figures."""

    kind: str = ""
    image_shape: tuple[int, int, int]
    batch_size: int | None = None
    precision: str = "fp32"

    @abstractmethod
    def __init__(self, network: Any, options: OpenOptions) -> None: ...

    @abstractmethod
    def __call__(self, images: Images) -> Logits:
        """Return the logits of a batch."""

    @abstractmethod
    def close(self) -> None:
        """Release the network. It cannot be called afterwards."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @classmethod
    def require(cls) -> Any:
        """Import and return the package of the runtime, or return ``None`` if imgrec requires it.

        Raises:
            UserError: If the package is not installed. The message names the extra.
        """
        return None if cls.package is None else require(*cls.package, cls.title)

    def check(self, images: Images) -> None:
        """Raise if the network does not accept a batch.

        Raises:
            UserError: If the size of the images or of the batch is not the one that the network was exported for.
        """
        if self.batch_size not in (None, len(images)):
            raise UserError(f"images: expected a batch of {self.batch_size}, got {len(images)}.")
        lengths = zip(self.image_shape, images.shape[1:], strict=True)
        if any(own not in (0, given) for own, given in lengths):
            expected = " x ".join(str(own or "any") for own in self.image_shape)
            raise UserError(f"images: expected the shape {expected}, got {' x '.join(map(str, images.shape[1:]))}.")


RUNTIMES: Registry[Runtime] = Registry("runtime", "runtimes")
"""Runtimes by name. ``imgrec list runtimes`` prints them."""
