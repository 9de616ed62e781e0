"""Prediction of class names and probabilities for image files."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imgrec.augment import TestTimeAugmentation, build_transforms
from imgrec.data.decoding.image import BadImage, decode_image, to_channels
from imgrec.data.decoding.pixel_budget import decoding
from imgrec.errors import UserError
from imgrec.export.backends import ClassifierBackend, make_backend
from imgrec.export.runtimes.base import Runtime
from imgrec.models import Classifier
from imgrec.types import DataFacts
from imgrec.utils.ranges import PositiveInt, check_ranges


@dataclass(frozen=True)
class Prediction:
    """The prediction of a model for one image.

    Attributes:
        path: Path of the image.
        classes: All class names, the most probable first. Empty if there is an error.
        probabilities: Probabilities in the order of ``classes``. Empty if there is an error.
        logits: Logits in the order of the classes of the model. Empty if there is an error.
        error: Reason why the image could not be used, or ``None``.
    """

    path: Path
    classes: tuple[str, ...]
    probabilities: NDArray[np.float64]
    logits: NDArray[np.float32]
    error: str | None = None


class Predictor:
    """A trained classifier or an export, ready for image files.

    Args:
        classifier: Classifier, which is moved to ``device`` and set to evaluation mode, or an open runtime.
        facts: Facts of the data that it was built for, with its preprocessing.
        batch_size: Number of images per forward pass, 1 or more. Defaults to 64.
        device: Device of a classifier. ``auto`` selects a GPU if there is one. A runtime has its own device.
        tta: Test-time augmentation. Defaults to none.

    Attributes:
        backend: Network with its runtime and precision.

    Raises:
        UserError: If the device is not available, or if the batch size is below 1.
    """

    @check_ranges
    def __init__(
        self,
        classifier: Classifier | Runtime,
        facts: DataFacts,
        batch_size: PositiveInt = 64,
        device: str | torch.device = "auto",
        tta: TestTimeAugmentation | None = None,
    ) -> None:
        self.facts = facts
        self.batch_size = batch_size
        self.tta = tta
        self.backend = make_backend(classifier, device)
        self._transforms = build_transforms(
            list(facts.eval_transforms),
            "eval_transforms",
            image_size=facts.image_size,
            in_channels=facts.channels,
        )

    @property
    def classifier(self) -> Classifier:
        """The classifier.

        Raises:
            UserError: If the network is an export, which PyTorch does not run.
        """
        if not isinstance(self.backend, ClassifierBackend):
            raise UserError(
                f"the network runs in {self.backend.title}, and has no classifier in PyTorch. "
                "Load the folder model/ of its run instead."
            )
        return self.backend.classifier

    @property
    def device(self) -> torch.device:
        """Device on which the network receives its images."""
        return self.backend.device

    def predict(self, paths: Iterable[str | Path]) -> list[Prediction]:
        """Return a prediction for each path, in the order of the paths. See :meth:`stream`."""
        return list(self.stream(paths))

    def stream(self, paths: Iterable[str | Path]) -> Iterator[Prediction]:
        """Yield a prediction for each path, in the order of the paths, with a bounded number of images in memory.

        Threads decode the next images while the model runs. An image that cannot be read results in a prediction with
        an ``error``.
        """
        rest = iter(map(Path, paths))
        waiting: deque[tuple[Path, Future[Tensor | str]]] = deque()
        pool = ThreadPoolExecutor(_threads(), thread_name_prefix="decode")
        try:
            while True:
                while len(waiting) < 2 * self.batch_size and (path := next(rest, None)) is not None:
                    waiting.append((path, pool.submit(self.read, path)))
                if not waiting:
                    return
                batch = [waiting.popleft() for _ in range(min(self.batch_size, len(waiting)))]
                while len(waiting) < 2 * self.batch_size and (path := next(rest, None)) is not None:
                    waiting.append((path, pool.submit(self.read, path)))  # decoded while the model runs
                yield from self._predict_batch([(path, future.result()) for path, future in batch])
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def read(self, path: str | Path) -> Tensor | str:
        """Return the input of the model, uint8 ``(channels, image_size, image_size)``, or the reason of a failure."""
        try:
            with decoding():
                image = decode_image(Path(path))
                return self._transforms(to_channels(image, cast(Literal[1, 3], self.facts.channels)))
        except BadImage as error:
            return error.reason
        except UserError as error:  # the transforms do not result in the image size of the model
            return str(error)

    def logits(self, images: Tensor) -> Tensor:
        """Return the logits of images that :meth:`read` returned, on the CPU: float ``(batch, num_classes)``."""
        with torch.inference_mode():
            images = images.to(self.backend.device)
            logits: Tensor = self.tta(self.backend, images) if self.tta else self.backend(images)
            return logits.float().cpu()

    def _predict_batch(self, batch: list[tuple[Path, Tensor | str]]) -> Iterator[Prediction]:
        images = [image for _, image in batch if isinstance(image, Tensor)]
        rows = iter(self.logits(torch.stack(images)) if images else ())
        for path, image in batch:
            if isinstance(image, str):
                yield Prediction(path, (), np.empty(0), np.empty(0, dtype=np.float32), image)
                continue
            row = next(rows)
            probabilities = row.double().softmax(0)
            order = probabilities.argsort(descending=True, stable=True)
            names = tuple(self.facts.class_names[i] for i in order.tolist())
            yield Prediction(path, names, probabilities[order].numpy(), row.numpy().copy())


def _threads() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, cores)
