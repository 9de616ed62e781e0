"""A classifier in PyTorch: as it is, or compiled."""

from __future__ import annotations

import numpy as np
import torch

from imgrec.errors import UserError
from imgrec.export.runtimes.base import Images, Logits, Runtime
from imgrec.models import Classifier
from imgrec.types import DataFacts

_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class TorchRuntime(Runtime):
    """See :func:`imgrec.export.runtimes.registry.open_runtime`; the classifier is moved, and put into evaluation mode.

    Compiled, it is compiled anew for each size of a batch.
    """

    def __init__(
        self, classifier: Classifier, facts: DataFacts | None, kind: str, threads: int, device: str, precision: str
    ) -> None:
        self.kind = kind  # type: ignore[misc]
        self.precision = precision
        side = facts.image_size if facts is not None else 0
        self.image_shape = (len(classifier.mean), side, side)
        self._threads = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            self.device = torch.device(device)
            self._network: Classifier | None = classifier.to(self.device, _TYPES[precision]).eval()
        except (RuntimeError, AssertionError) as error:  # torch's ways to say that it was built without this device
            raise UserError(f'the device "{device}" cannot be used: {str(error).partition(chr(10))[0]}') from error
        if kind == "compile":
            classifier.compile(dynamic=False)

    @torch.inference_mode()
    def __call__(self, images: Images) -> Logits:  # noqa: D102
        if self._network is None:
            raise RuntimeError("this runtime is closed")
        self.check(images)
        logits = self._network(torch.from_numpy(np.ascontiguousarray(images)).to(self.device))
        found: Logits = logits.float().cpu().numpy()
        return found

    def close(self) -> None:  # noqa: D102
        if self._network is not None:
            self._network = None
            torch.set_num_threads(self._threads)
