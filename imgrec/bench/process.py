"""Process of one measurement: it is started for one network and receives its commands line by line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self


class MeasurementError(Exception):
    """A failed command of a measuring process. The message is added to the notes of the row."""


class BenchProcess:
    """A process of :mod:`imgrec.bench.worker` with a fixed number of threads. It ends with the ``with`` block.

    Args:
        threads: Number of threads that compute, 1 or more.
    """

    def __init__(self, threads: int) -> None:
        counts = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
        own = {"TORCHINDUCTOR_COMPILE_THREADS": "1", "PYTHONPATH": _path()}
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  (closed with the process)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "imgrec.bench.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env={**os.environ, **counts, **own},
            text=True,
            encoding="utf-8",
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def call(self, method: str, **arguments: Any) -> dict[str, Any]:
        """Call a method of the worker in its process and return its result.

        Raises:
            MeasurementError: If the method raises an error or the process ends.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            print(json.dumps({"do": method, **arguments}), file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        except (BrokenPipeError, OSError):
            line = ""
        if not line:
            raise MeasurementError(self._end())
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise MeasurementError(answer["error"])
        return answer

    def close(self) -> None:
        """Stop the process."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._stderr):
            if stream is not None:
                with suppress(BrokenPipeError):  # raised if data is still in the buffer
                    stream.close()

    def _end(self) -> str:
        status = self._process.wait()
        self._stderr.seek(0)
        lines = [line for line in self._stderr.read().decode(errors="replace").splitlines() if line.strip()]
        cause = f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"
        return f"its process ended with {cause}{f': {lines[-1].strip()[:200]}' if lines else ''}"


def _path() -> str:
    """Return a PYTHONPATH that contains this package, so that the process can be started in any folder."""
    own = str(Path(__file__).parents[2])
    return os.pathsep.join([own, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))])
