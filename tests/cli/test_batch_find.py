"""Tests of `imgrec batch-find`: order of sizes, end of the search, and equality with the real training."""

from __future__ import annotations

import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import imgrec
from imgrec.callbacks.throughput import StepMeter
from imgrec.engine.config import normal_form
from imgrec.engine.tuning import memory_meter, short_run
from imgrec.engine.tuning.batch_find import BatchSize, BatchSizes, predicted_memory, search
from imgrec.errors import UserError
from imgrec.utils import memory as process
from imgrec.utils import yaml
from imgrec.utils.formatting import format_size, parse_byte_size
from tests.conftest import TINY, Cli

MIB = 2**20


class Pretended:
    """Replacement of the trials by a model of memory: 100 MiB and 1 MiB per image."""

    def __init__(
        self, patch: pytest.MonkeyPatch, device: str = "cpu", room: int = 10**9, free: int | None = None
    ) -> None:
        self.tried: list[int] = []
        self.accumulated: list[int] = []
        self.device, self.room, self.of = torch.device(device), room, free
        patch.setattr(short_run, "train_briefly", self.train)
        patch.setattr(memory_meter, "MemoryMeter", lambda device: self)

    def train(self, experiment: Any, meter: Any, *, data: Any, trainer: Any) -> None:
        self.tried.append(data["batch_size"])
        self.accumulated.append(trainer["accumulate_grad_batches"])
        if data["batch_size"] > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    def free(self) -> int | None:
        return self.of

    def reset_peak(self) -> None:
        pass

    def peak(self) -> int:
        return (100 + self.tried[-1]) * MIB

    def is_exhausted(self, error: RuntimeError) -> bool:
        return isinstance(error, torch.OutOfMemoryError)

    @property
    def experiment(self) -> Any:
        """An experiment of 1,000 training images on this device, that accumulates four batches."""
        data = SimpleNamespace(prepare_data=lambda: None, setup=lambda stage: None, split_sizes=lambda: {"train": 1000})
        trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=self.device), accumulate_grad_batches=4)
        config = {"data": {"class_path": "imgrec.ImageDataModule", "init_args": {"batch_size": 64}}}
        return SimpleNamespace(data=data, trainer=trainer, config=config)


def test_the_largest_power_of_two_that_fits_and_the_next_is_not_tried_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    pretended = Pretended(monkeypatch)
    found = search(pretended.experiment, "300MiB", 8, 4096)
    assert pretended.tried == [8, 16, 32, 64, 128]
    assert [each.memory for each in found.tried] == [(100 + size) * MIB for size in pretended.tried]
    assert found.largest.size == 128
    assert found.end == "256 would take about 356.0 MiB"
    assert set(pretended.accumulated) == {2}


def test_on_a_gpu_a_size_is_tried_until_one_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    pretended = Pretended(monkeypatch, "cuda", room=300)
    found = search(pretended.experiment, "1TiB", 8, 4096)
    assert pretended.tried == [8, 16, 32, 64, 128, 256, 512]
    assert (found.largest.size, found.end) == (256, "512 did not fit")
    pretended = Pretended(monkeypatch, "cuda")
    assert search(pretended.experiment, "300MiB", 8, 4096).end == "256 took 356.0 MiB"
    assert pretended.tried[-1] == 256


def test_there_are_no_more_images_than_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    pretended = Pretended(monkeypatch)
    found = search(pretended.experiment, "1TiB", 100, 4096)
    assert pretended.tried == [100, 200, 400, 800, 1000]
    assert found.end == "there are 1,000 training images"
    assert search(pretended.experiment, "1TiB", 100, 400).end == "--largest is 400"
    assert search(pretended.experiment, "1TiB", 100, 500).largest.size == 400


def test_nine_tenths_of_what_is_free_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    found = search(Pretended(monkeypatch, free=1000 * MIB).experiment, None, 8, 64)
    assert found.budget == 900 * MIB
    with pytest.raises(UserError, match="--memory: expected a size such as 6GiB"):
        search(Pretended(monkeypatch).experiment, None, 8, 64)


def test_smallest_batch_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"no batch fits in 50.0 MiB: 8 took 108.0 MiB"):
        search(Pretended(monkeypatch).experiment, "50MiB", 8, 64)


def test_other_errors_are_not_out_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    pretended = Pretended(monkeypatch)

    def fail(*given: Any, **more: Any) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(short_run, "train_briefly", fail)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        search(pretended.experiment, "1GiB", 8, 64)


def test_linear_memory_is_predicted_exactly() -> None:
    line = [BatchSize(size, 70 + 3 * size, 1.0) for size in (8, 16)]
    assert predicted_memory(line, 64) == 70 + 3 * 64
    assert predicted_memory(line[:1], 64) is None
    assert predicted_memory([BatchSize(8, 90, 1.0), BatchSize(16, 80, 1.0)], 32) == 80  # noise, and not less than that


def test_as_fast_is_the_smallest_within_five_percent() -> None:
    rates = [10.0, 60.0, 96.0, 100.0, 90.0]
    sizes = tuple(BatchSize(2**i, 1, rate) for i, rate in enumerate(rates))
    assert BatchSizes(sizes, 10, "").as_fast.size == 4


@pytest.mark.parametrize(("error", "exhausted"), [
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), True),
    (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"), True),
    (RuntimeError("shapes cannot be multiplied"), False),
])  # fmt: skip
def test_out_of_memory_errors_of_torch(error: RuntimeError, exhausted: bool) -> None:
    assert memory_meter.MemoryMeter.is_exhausted(error) == exhausted


def test_images_a_second_are_those_after_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 2.0, 3.0, 5.0])
    monkeypatch.setattr("imgrec.callbacks.throughput.time.perf_counter", lambda: next(now))
    meter, trainer = StepMeter(4), SimpleNamespace(global_step=0, should_stop=False)
    module: Any = SimpleNamespace(device=torch.device("cpu"))
    for step in (0, 1, 2, 3, 4):
        trainer.global_step = step  # the first batch is one that is accumulated
        meter.on_train_batch_end(trainer, module, None, [0] * 10, 0)  # type: ignore[arg-type]
        assert trainer.should_stop == (step == 4)
    assert meter.images_per_second == 5.0  # of 5, 10 and 5


def test_free_memory_is_the_least_of_the_machine_and_its_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine, group = tmp_path / "meminfo", tmp_path / "group"
    monkeypatch.setattr(process, "_MACHINE", machine)
    monkeypatch.setattr(process, "_GROUP", group)
    assert process.free_memory() is None
    machine.write_text("MemTotal:       16000 kB\nMemAvailable:    8000 kB\n")
    assert process.free_memory() == 8000 * 1024
    (group / "memory").mkdir(parents=True)
    (group / "memory.max").write_text("max\n")
    (group / "memory.current").write_text("1000\n")
    assert process.free_memory() == 8000 * 1024
    (group / "memory.max").write_text("5000000\n")
    (group / "memory.stat").write_text("anon 5\ninactive_file 300\n")
    assert process.free_memory() == 5000000 - 1000 + 300
    (group / "memory" / "memory.limit_in_bytes").write_text("4000000\n")
    (group / "memory" / "memory.usage_in_bytes").write_text("3000000\n")
    assert process.free_memory() == 1000000


@pytest.mark.parametrize("text", ["6", "GiB", "0MB", "1e3MB", "-1GB", "6 GiBs", "", "5%"])
def test_invalid_sizes_are_rejected(text: str) -> None:
    with pytest.raises(ValueError, match="expected a size with its unit, such as 6GiB"):
        parse_byte_size(text)


def test_sizes_are_read_as_they_are_written() -> None:
    for size in (2**20, 3 * 2**30, 5 * 2**20 // 2):
        assert parse_byte_size(format_size(size)) == size


# ---------------------------------------------------------------- for real


@pytest.mark.slow
def test_memory_grows_by_what_the_layers_keep_for_the_way_back() -> None:
    config = normal_form(yaml.parse(TINY))
    config["data"]["init_args"]["image_size"] = 64
    config["trainer"] = {"precision": "32-true"}
    config["model"]["init_args"]["channels_last"] = False
    tried = imgrec.find_batch_size(config, smallest=64, largest=512).tried
    assert [each.size for each in tried] == [64, 128, 256, 512]
    assert all(each.images_per_second > 0 for each in tried)
    kept = 8 * 32 * 32 * 4 * 3  # what the first convolution, norm and activation give, of each image
    assert tried[-1].memory - tried[0].memory > (512 - 64) * kept


def test_the_table_is_printed_and_nothing_is_left(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    done = cli("batch-find", tiny, "--smallest", 16, "--largest", 32, "--csv", "sizes.csv")
    assert done.returncode == 0, done.stderr
    assert "--data.batch_size 32   (" in done.stdout
    assert "; --largest is 32)" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sizes.csv", tiny.name]
    with (tmp_path / "sizes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["batch_size"] for row in rows] == ["16", "32"]
    assert all(int(row["bytes"]) >= 0 and float(row["images_per_second"]) > 0 for row in rows)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--memory", "6"], "--memory: expected a size with its unit, such as 6GiB or 500MB, got '6'"),
        (["--smallest", "0"], "--smallest: expected int > 0, got 0"),
        (["--smallest", "64", "--largest", "32"], "--smallest 64 is more than --largest 32"),
        (["--model.loss", "fokal"], 'Did you mean "focal"'),
        (["--larges", "5"], 'there is no option "--larges". Did you mean "--largest"'),
    ],
)
def test_invalid_argument_is_one_error(cli: Cli, tiny: Path, arguments: list[str], message: str) -> None:
    done = cli("batch-find", tiny, *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_missing_config_is_one_error(cli: Cli) -> None:
    assert "batch-find needs a config" in cli("batch-find").stderr
