"""Backends of a predictor, from a batch of images to logits: a classifier in PyTorch, or an export."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import Tensor

from imgrec.augment.base import to_float
from imgrec.compress.quantization.int8 import Int8Classifier
from imgrec.compress.quantization.qat import QuantizedClassifier
from imgrec.errors import UserError
from imgrec.export.runtimes.base import Runtime
from imgrec.export.runtimes.registry import runtime_title
from imgrec.models import Classifier

_TYPES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}


class Backend(ABC):
    """A network that maps a batch of images to logits.

    Attributes:
        runtime: Name in :data:`imgrec.RUNTIMES`.
        precision: ``fp32``, ``bf16``, ``fp16`` or ``int8``, or ``int8 (simulated)`` if PyTorch simulates int8.
        device: Device of the images that :meth:`__call__` receives.
    """

    runtime: str
    precision: str
    device: torch.device

    @abstractmethod
    def __call__(self, images: Tensor) -> Tensor:
        """Return the logits of a batch, ``(batch, num_classes)``, on the same device.

        Args:
            images: Images on :attr:`device`, uint8 or float in [0, 1], ``(batch, channels, height, width)``.
        """

    @property
    def title(self) -> str:
        """Runtime and precision as text.

        >>> backend = RuntimeBackend.__new__(RuntimeBackend)
        >>> backend.runtime, backend.precision = "onnxruntime", "int8"
        >>> backend.title
        'ONNX Runtime, int8'
        """
        return f"{runtime_title(self.runtime)}, {self.precision}"


class ClassifierBackend(Backend):
    """A classifier in PyTorch.

    Args:
        classifier: Classifier. It is moved to ``device`` and set to evaluation mode.
        device: Device of torch. ``auto`` selects a GPU if there is one. Defaults to ``auto``.

    Raises:
        UserError: If the device is unknown or not available.
    """

    runtime = "torch"

    def __init__(self, classifier: Classifier, device: str | torch.device = "auto") -> None:
        self.device = _device(device)
        try:
            self.classifier = classifier.to(self.device).eval()
        except (RuntimeError, AssertionError) as error:  # raised if torch was built without this device
            raise UserError(f'the device "{device}" cannot be used: {str(error).partition(chr(10))[0]}') from error
        self.precision = _precision_of(classifier)

    def __call__(self, images: Tensor) -> Tensor:  # noqa: D102
        logits: Tensor = self.classifier(images)
        return logits

    @property
    def title(self) -> str:
        """Runtime, precision and device as text."""
        return f"{super().title} on {self.device}"


def _precision_of(classifier: Classifier) -> str:
    if isinstance(classifier, Int8Classifier | QuantizedClassifier):
        return "int8 (simulated)"
    return _TYPES.get(classifier.mean.dtype, "fp32")


class RuntimeBackend(Backend):
    """A network that is open in another runtime than PyTorch.

    A runtime with a fixed batch size receives batches of that size. The last batch is padded with black images.

    Args:
        network: Open network, see :func:`imgrec.export.runtimes.registry.open_runtime`.
    """

    def __init__(self, network: Runtime) -> None:
        self.network = network
        self.runtime, self.precision = network.kind, network.precision
        self.device = torch.device("cpu")

    def __call__(self, images: Tensor) -> Tensor:  # noqa: D102
        pixels = to_float(images).numpy()
        size = self.network.batch_size or len(pixels)
        found = []
        for start in range(0, len(pixels), size):
            batch = pixels[start : start + size]
            missing = size - len(batch) if self.network.batch_size else 0
            filled = np.concatenate([batch, np.zeros_like(batch[:1]).repeat(missing, axis=0)]) if missing else batch
            found.append(self.network(filled)[: len(batch)])
        return torch.from_numpy(np.concatenate(found))


def make_backend(network: Classifier | Runtime, device: str | torch.device = "auto") -> Backend:
    """Return the backend of a classifier or of an open runtime.

    Args:
        network: Classifier or open runtime.
        device: Device of a classifier. A runtime has its own device. Defaults to ``auto``.
    """
    return RuntimeBackend(network) if isinstance(network, Runtime) else ClassifierBackend(network, device)


def _device(device: str | torch.device) -> torch.device:
    if device != "auto":
        try:
            return torch.device(device)
        except RuntimeError as error:
            raise UserError(f'device: expected auto, cpu, cuda, cuda:1 or mps, got "{device}".') from error
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
