"""Runtimes of classifiers in PyTorch: eager, and compiled with ``torch.compile``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from imgrec.errors import UserError
from imgrec.export.runtimes.base import RUNTIMES, Images, Logits, OpenOptions, Runtime

if TYPE_CHECKING:
    from imgrec.models import Classifier

_TYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


@RUNTIMES.register("torch")
class TorchRuntime(Runtime):
    """PyTorch in eager mode.

    Opens classifiers on ``cpu`` and ``cuda``. The classifier is moved to the device and put into evaluation mode. The
    number of threads is a setting of the process: :meth:`close` restores it.

    Args:
        network: Classifier.
        options: Precision, threads and device.

    Raises:
        UserError: If the device is not available.
    """

    title = short_title = "PyTorch"
    precisions = ("fp32", "bf16", "fp16")
    devices = ("cpu", "cuda")
    order = 0
    marker = "o"
    is_compiled: ClassVar[bool] = False

    def __init__(self, network: Classifier, options: OpenOptions) -> None:
        import torch

        self.precision = options.precision or "fp32"
        side = options.facts.image_size if options.facts is not None else 0
        self.image_shape = (len(network.mean), side, side)
        self._threads = torch.get_num_threads()
        torch.set_num_threads(options.threads)
        try:
            self.device = torch.device(options.device)
            self._network: Classifier | None = network.to(self.device, getattr(torch, _TYPES[self.precision])).eval()
        except (RuntimeError, AssertionError) as error:  # torch raises either if it was built without the device
            reason = str(error).partition("\n")[0]
            raise UserError(f'the device "{options.device}" cannot be used: {reason}') from error
        if self.is_compiled:
            network.compile(dynamic=False)

    def __call__(self, images: Images) -> Logits:  # noqa: D102
        import torch

        if self._network is None:
            raise RuntimeError("this runtime is closed")
        self.check(images)
        with torch.inference_mode():
            logits = self._network(torch.from_numpy(np.ascontiguousarray(images)).to(self.device))
            found: Any = logits.float().cpu().numpy()
        result: Logits = found
        return result

    def close(self) -> None:  # noqa: D102
        import torch

        if self._network is not None:
            self._network = None
            torch.set_num_threads(self._threads)


@RUNTIMES.register("compile")
class CompiledTorchRuntime(TorchRuntime):
    """PyTorch after ``torch.compile``, which compiles the classifier once for each batch size.

    Compiling takes about a minute, so ``imgrec bench`` measures it on request only. See ``torch`` for the options.
    """

    title = "PyTorch, compiled"
    short_title = "compiled"
    order = 1
    marker = "s"
    is_measured_by_default = False
    is_compiled = True
