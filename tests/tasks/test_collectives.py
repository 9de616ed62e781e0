"""Collective operations of two and three real processes, without a model or a data set."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

GATHERING = """
import json, sys
from pathlib import Path

import torch
from torch import distributed

from imgrec.errors import UserError
from imgrec.tasks.epoch_predictions import EpochBuffer, RunningMeans
from imgrec.tasks.collectives import run_on_rank_zero


def logits_of(name):
    return torch.randn(3, generator=torch.Generator().manual_seed(int(name)))


def main():
    rank, count, out = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    distributed.init_process_group("gloo", init_method=f"file://{out}/meeting", rank=rank, world_size=count)
    said = {}

    buffer = EpochBuffer()
    names = [f"{i:02d}" for i in range(23)][::-1]
    batches = [names[i : i + 4] for i in range(0, 23, 4)][rank::count] if rank else [names[0:4]]
    if rank == 0:  # an uneven share: the batches that the others do not have
        others = {n for r in range(1, count) for b in [names[i : i + 4] for i in range(0, 23, 4)][r::count] for n in b}
        rest = [n for n in names if n not in others]
        batches = [rest[:1], rest[1:]]
    for batch in batches:
        buffer.add(batch, torch.tensor([int(n) % 3 for n in batch]), torch.stack([logits_of(n) for n in batch]))
    if rank == count - 1:
        buffer.skip(["broken", "broken"])
    taken = buffer.gather()
    said["none"] = taken is None
    if taken is not None:
        taken.check("val", 24)
        said["ids"] = taken.ids
        said["skipped"] = taken.skipped
        said["targets"] = taken.targets.tolist()
        said["equal"] = torch.equal(taken.logits, torch.stack([logits_of(n) for n in taken.ids]))
    said["empty"] = buffer.gather() is None

    # the last process has no batch at all
    if rank < count - 1:
        buffer.add([f"a{rank}"], torch.tensor([rank]), torch.full((1, 3), float(rank)))
    taken = buffer.gather()
    said["few"] = None if taken is None else taken.logits[:, 0].tolist()

    # every process has the same image, as without a distributed sampler
    buffer.add(["same", f"own {rank}"], torch.zeros(2, dtype=torch.long), torch.zeros(2, 3))
    taken = buffer.gather()
    try:
        run_on_rank_zero(lambda: taken.check("val"))
    except UserError as error:
        said["twice"] = str(error)
    said["told"] = run_on_rank_zero(lambda: {"acc": 0.25 + rank})

    def fail():
        raise KeyError("no such metric")

    try:
        run_on_rank_zero(fail)
    except (KeyError, RuntimeError) as error:
        said["failed"] = [type(error).__name__, str(error)]

    means = RunningMeans()
    means.add("loss", torch.tensor(1.0 + rank), 10 * (rank + 1))
    if rank == 0:
        means.add("acc", torch.tensor(0.5), 4)  # the other one has seen mixed batches only
    said["means"] = means.gather()
    (out / f"{rank}.json").write_text(json.dumps(said))
    distributed.destroy_process_group()


main()
"""


@pytest.fixture(scope="module", params=[2, 3])
def said(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Results of each process."""
    count, out = int(request.param), tmp_path_factory.mktemp("gathering")
    (out / "gathering.py").write_text(GATHERING)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    words = [sys.executable, str(out / "gathering.py")]
    started = [
        subprocess.Popen([*words, str(rank), str(count), str(out)], env=environment, stderr=subprocess.PIPE, text=True)
        for rank in range(count)
    ]
    errors = [process.communicate(timeout=240)[1] for process in started]
    assert [process.returncode for process in started] == [0] * count, "".join(errors)
    return [json.loads((out / f"{rank}.json").read_text()) for rank in range(count)]


@pytest.mark.slow
def test_the_first_process_gets_every_prediction_once_and_in_order(said: list[dict[str, Any]]) -> None:
    first = said[0]
    assert first["ids"] == [f"{i:02d}" for i in range(23)]
    assert first["targets"] == [i % 3 for i in range(23)]
    assert first["equal"]
    assert first["skipped"] == ["broken"]
    assert [each["none"] for each in said] == [False] + [True] * (len(said) - 1)
    assert all(each["empty"] for each in said)
    assert first["few"] == [float(rank) for rank in range(len(said) - 1)]


@pytest.mark.slow
def test_an_image_that_was_evaluated_twice_is_an_error_on_every_process(said: list[dict[str, Any]]) -> None:
    for each in said:
        assert each["twice"].startswith("val: expected one prediction per image, got several for 1 images, for example")


@pytest.mark.slow
def test_all_processes_receive_the_result_or_the_error_of_the_first(said: list[dict[str, Any]]) -> None:
    assert [each["told"] for each in said] == [{"acc": 0.25}] * len(said)
    assert said[0]["failed"] == ["KeyError", "'no such metric'"]
    for each in said[1:]:
        assert each["failed"] == ["RuntimeError", "first process: KeyError: 'no such metric'"]


@pytest.mark.slow
def test_means_are_over_the_samples_of_all_processes(said: list[dict[str, Any]]) -> None:
    count = len(said)
    samples = sum(10 * (rank + 1) for rank in range(count))
    loss = sum((1.0 + rank) * 10 * (rank + 1) for rank in range(count)) / samples
    assert [each["means"] for each in said] == [{"loss": loss, "acc": 0.5}] * count
