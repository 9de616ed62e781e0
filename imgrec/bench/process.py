"""A process to measure in: started fresh, told what to do line by line, ended at the end."""

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
    """What was asked of a process could not be done; the message is for the row."""


class BenchProcess:
    """One :mod:`imgrec.bench.worker`, with a fixed number of threads; ends with the ``with`` block.

    Args:
        threads: how many compute.
    """

    def __init__(self, threads: int) -> None:
        counts = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
        own = {"TORCHINDUCTOR_COMPILE_THREADS": "1", "PYTHONPATH": _path()}
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  (closed with the process)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "imgrec.bench.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
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

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Have a method of the worker called, and give its answer.

        Raises:
            MeasurementError: it failed, or the process ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            print(json.dumps({"do": do, **arguments}), file=self._process.stdin, flush=True)
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
        """End the process."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._said):
            if stream is not None:
                with suppress(BrokenPipeError):  # what was not sent any more
                    stream.close()

    def _end(self) -> str:
        status = self._process.wait()
        self._said.seek(0)
        lines = [line for line in self._said.read().decode(errors="replace").splitlines() if line.strip()]
        why = f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"
        return f"its process ended with {why}{f': {lines[-1].strip()[:200]}' if lines else ''}"


def _path() -> str:
    """Where the process finds this package, from whatever folder it is started."""
    own = str(Path(__file__).parents[2])
    return os.pathsep.join([own, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))])
