"""Worker processes: what they outlive, and that they end with the program."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from imgrec.data import ImageDataModule, workers

pytestmark = pytest.mark.forks


@pytest.fixture
def loader() -> Any:
    data = ImageDataModule("digits", batch_size=64, image_size=8, channels=1, num_workers=2)
    data.setup()
    return data.train_dataloader()


def alive(process: Any) -> bool:
    process.join(timeout=20)
    return bool(process.is_alive())


def test_an_open_iterator_has_no_workers_when_the_program_has_ended(loader: Any) -> None:
    """torch leaves them to multiprocessing then, which waited for two minutes."""
    batches: Iterator[Any] = iter(loader)
    next(batches)
    processes = list(loader._iterator._workers)
    assert len(processes) == 2
    assert all(process.is_alive() for process in processes)
    workers.close_workers()
    assert not any(alive(process) for process in processes)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_worker_outlives_one_signal_and_not_two(loader: Any, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_ONE_SIGNAL", 0.0)
    batches: Iterator[Any] = iter(loader)
    next(batches)
    process = loader._iterator._workers[0]
    os.kill(process.pid, number)
    assert len(list(batches)) == len(loader) - 1  # it continues
    assert process.is_alive()
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's raises in the test
    try:
        os.kill(process.pid, number)
        assert not alive(process)
        assert process.exitcode == -number
    finally:
        loader._iterator._workers_status[0] = False
        workers.close_workers()
        signal.signal(signal.SIGCHLD, before)
