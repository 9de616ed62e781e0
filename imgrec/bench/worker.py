"""Measuring process of one row of a benchmark, which opens a network and executes commands.

It is started as ``python -m imgrec.bench.worker``. Each line of its input and of its output is a JSON object. Output of
libraries is redirected to standard error.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from imgrec.errors import UserError
from imgrec.export.runtimes.base import OpenOptions
from imgrec.export.runtimes.registry import open_runtime, runtime_class
from imgrec.utils.memory import forget_peak, process_memory

_WARM_CALLS = 3


class Worker:
    """State of the process and its commands. Each public method is a command."""

    def __init__(self) -> None:
        self._runtime: Any = None
        self._before: int | None = None
        self._images: dict[int, NDArray[np.float32]] = {}
        self._meters: list[Any] = []
        self._cuda = False

    def open(
        self,
        path: str,
        runtime: str,
        threads: int,
        device: str,
        precision: str | None,
        cores: list[int] | None,
        stored: str = "fp32",
    ) -> dict[str, Any]:
        """Open a network and return its precision, batch size and image shape.

        Args:
            path: Network file, or the source of a classifier.
            runtime: Name in :data:`imgrec.RUNTIMES`.
            threads: Number of threads.
            device: Device of the runtime.
            precision: Precision to compute in, or ``None`` for the default.
            cores: Cores that the process is restricted to, or ``None`` for all.
            stored: Precision of the file. Defaults to ``fp32``.
        """
        if cores and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, cores)  # before any library starts its threads
        from imgrec.runs.system import energy_meters

        gpus = [] if device == "cpu" else _gpu(device)
        make = self._import(path, runtime, OpenOptions(stored, precision, threads, device))
        gc.collect()
        self._before = process_memory("now")
        self._runtime = make()
        self._meters, why = energy_meters(gpus)
        return {
            "precision": self._runtime.precision,
            "batch_size": self._runtime.batch_size,
            "image_shape": list(self._runtime.image_shape),
            "no_energy": why,
        }

    def warm(self, batch: int) -> dict[str, Any]:
        """Call the network a few times with a batch, and return the peak memory of a call in bytes.

        The memory before the network was opened is subtracted. The result includes weights and activations. It
        excludes the libraries and the temporary memory of opening the network.
        """
        images = self._batch(batch)
        for _ in range(_WARM_CALLS):
            self._runtime(images)
        gc.collect()
        if self._cuda:
            import torch

            torch.cuda.reset_peak_memory_stats()
            self._runtime(images)
            return {"memory": int(torch.cuda.max_memory_allocated())}
        if self._before is None or not forget_peak():
            return {"memory": None}
        self._runtime(images)
        peak = process_memory("peak")
        return {"memory": None if peak is None else max(0, peak - self._before)}

    def time(self, batch: int, seconds: float) -> dict[str, Any]:
        """Time calls for the given seconds, at least one. The first call is not counted, because caches are cold."""
        images = self._batch(batch)
        before, first = (self._joules(), time.process_time()), self._call(images)
        found = [first] if first >= seconds else []
        if not found:
            before = (self._joules(), time.process_time())
            ends = time.perf_counter() + seconds
            while not found or time.perf_counter() < ends:
                found.append(self._call(images))
        joules, computed = self._joules() - before[0], time.process_time() - before[1]
        return {"seconds": found, "computed": computed, "joules": joules if self._meters else None}

    def predict(self, images: str, logits: str, batch: int) -> dict[str, Any]:
        """Compute the logits of uint8 images and store them. All batches have one size, and the last one is padded.

        Args:
            images: Path of the .npy file to read, uint8 ``(N, C, H, W)``.
            logits: Path of the .npy file to write, float32 ``(N, num_classes)``.
            batch: Batch size.
        """
        pixels = np.load(images, allow_pickle=False)
        parts = []
        for start in range(0, len(pixels), batch):
            part = pixels[start : start + batch].astype(np.float32) / np.float32(255)
            missing = batch - len(part)
            filled = np.concatenate([part, np.repeat(part[-1:], missing, axis=0)]) if missing else part
            parts.append(self._runtime(filled)[: len(part)])
        np.save(logits, np.concatenate(parts), allow_pickle=False)
        return {}

    def _import(self, path: str, runtime: str, options: OpenOptions) -> Callable[[], Any]:
        """Import the packages that the runtime requires, and return the function that opens the network.

        A runtime of files is opened without imgrec's own imports of torch.
        """
        cls = runtime_class(runtime)
        if cls.suffixes:
            cls.require()
            return lambda: cls(Path(path), options)
        from imgrec.runs.network import read_network

        self._cuda = options.device.startswith("cuda")

        def make() -> Any:
            classifier, facts = read_network(path)
            return open_runtime(classifier, runtime, options.threads, options.device, options.precision, facts)

        return make

    def _batch(self, size: int) -> NDArray[np.float32]:
        if size not in self._images:
            shape = self._runtime.image_shape
            if 0 in shape:
                raise UserError(f"the network accepts images of any size and declares no default: {shape}")
            self._images = {**self._images, size: np.random.default_rng(0).random((size, *shape), dtype=np.float32)}
        return self._images[size]

    def _call(self, images: NDArray[np.float32]) -> float:
        start = time.perf_counter()
        self._runtime(images)
        return time.perf_counter() - start

    def _joules(self) -> float:
        return float(sum(meter.joules() for meter in self._meters))


def _gpu(device: str) -> list[str]:
    import torch

    return [str(torch.cuda.get_device_properties(device).uuid)] if torch.cuda.is_available() else []


def serve(commands: IO[str], answers: IO[str]) -> None:
    """Execute the command in each line and write its result as a line, until the input ends."""
    worker = Worker()
    for line in commands:
        command = json.loads(line)
        try:
            answer = getattr(worker, command.pop("do"))(**command)
        except Exception as error:  # runtimes raise exceptions of many classes, which become the note of the row
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            answer = {"error": reason if isinstance(error, UserError) else f"{type(error).__name__}: {reason}"[:500]}
        print(json.dumps(answer), file=answers, flush=True)


def main() -> None:
    """Execute the commands on standard input. Redirect the output of libraries to standard error."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    serve(sys.stdin, answers)


if __name__ == "__main__":
    main()
