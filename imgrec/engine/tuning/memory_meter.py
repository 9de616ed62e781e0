"""Peak memory of the training in this process, on a GPU or a CPU."""

from __future__ import annotations

import gc

import torch
from pytorch_lightning.utilities.memory import is_oom_error

from imgrec.utils.memory import forget_peak, free_memory, process_memory


class MemoryMeter:
    """Memory in bytes that this process uses in addition to its memory at the construction of the meter.

    Args:
        device: GPU, whose memory torch counts, or CPU, whose memory the operating system counts.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        release_memory()
        self._before = 0 if device.type == "cuda" else process_memory("now") or 0

    def free(self) -> int | None:
        """Return the number of free bytes, or ``None`` if the system does not report it."""
        if self.device.type == "cuda":
            return torch.cuda.mem_get_info(self.device)[0] + torch.cuda.memory_reserved(self.device)
        return free_memory()

    def reset_peak(self) -> None:
        """Start a new measurement of the peak."""
        release_memory()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            forget_peak()  # on a system without a reset, the peak is that of the largest batch, which is the last one

    def peak(self) -> int:
        """Return the peak number of bytes since the last reset."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_reserved(self.device)
        return max(0, (process_memory("peak") or 0) - self._before)

    @staticmethod
    def is_exhausted(error: RuntimeError) -> bool:
        """Return True if an error reports a lack of memory."""
        return bool(is_oom_error(error))


def release_memory() -> None:
    """Release unreferenced objects and the cached memory of GPUs."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
