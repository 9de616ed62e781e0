"""The predictions of 50,000 images in 1,000 classes are gathered, written and read in bounded memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import json, resource, sys
from pathlib import Path

import numpy as np
import torch

from imgrec.runs.predictions import Predictions, read_predictions, write_predictions
from imgrec.tasks.epoch_predictions import EpochBuffer

SAMPLES, CLASSES, BATCH = 50_000, 1_000, 256


def peak():
    # kilobytes on Linux, bytes on macOS
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "linux" else 2**20)


def main():
    path = Path(sys.argv[1])
    names = [str(i) for i in range(CLASSES)]
    write_predictions(path, Predictions(["a"], [0], np.zeros((1, CLASSES)), names))  # what is imported on the way
    read_predictions(path)
    found = {"before": peak()}
    buffer = EpochBuffer()
    for start in range(0, SAMPLES, BATCH):
        ids = [f"class/{(i * 7919) % SAMPLES:08d}.jpg" for i in range(start, min(start + BATCH, SAMPLES))]
        buffer.add(ids, torch.arange(start, start + len(ids)) % CLASSES, torch.full((len(ids), CLASSES), float(start)))
    found["kept"] = peak()
    taken = buffer.gather()
    found["gathered"] = peak()
    whole = Predictions(taken.ids, taken.targets.numpy(), taken.logits.numpy(), names)
    write_predictions(path, whole)
    found["written"] = peak()
    del buffer
    read = read_predictions(path)
    found["read"] = peak()
    assert read.ids == list(taken.ids)
    assert np.array_equal(read.logits, whole.logits)
    print(json.dumps(found))


main()
"""


@pytest.mark.slow
def test_predictions_are_never_in_memory_more_than_twice(tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "test.parquet")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    size = 50_000 * 1_000 * 4 / 2**20  # of the logits alone, in MiB
    assert found["kept"] - found["before"] < 1.2 * size
    assert found["gathered"] - found["before"] < 2.2 * size  # the batches and the joined array
    assert found["written"] - found["gathered"] < 0.6 * size  # row groups
    assert found["read"] - found["written"] < 1.5 * size  # those that are read, and row groups
