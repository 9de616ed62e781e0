"""Cost of networks, compared with published values."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from imgrec.compress.profiling import (
    bytes_on_disk,
    count_macs,
    count_nonzero,
    count_parameters,
    measure_peak_memory,
    time_calls,
    time_ratio,
)


@pytest.mark.parametrize(
    ("name", "parameters", "macs"),
    # timm's published table: millions of parameters, billions of MACs at 224 pixels
    [
        ("resnet18", 11.69e6, 1.82e9),
        ("mobilenetv3_small_100", 2.54e6, 0.06e9),
        ("deit_tiny_patch16_224", 5.72e6, 1.26e9),
    ],
)
def test_parameters_and_macs_equal_published_values(name: str, parameters: float, macs: float) -> None:
    model = timm.create_model(name).train()
    assert count_parameters(model) == pytest.approx(parameters, rel=2e-3)
    assert count_macs(model, torch.zeros(2, 3, 224, 224)) == pytest.approx(macs, rel=0.06)
    assert model.training


def test_zeros_are_counted() -> None:
    layer = nn.Linear(4, 3)
    with torch.no_grad():
        layer.weight.fill_(1)[0] = 0
        layer.bias.fill_(2)
    assert (count_parameters(layer), count_nonzero(layer)) == (15, 11)


def test_every_round_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    took = iter([9.0] * 3 + [1.0, 2.0, 3.0, 4.0, 100.0] * 4)  # the first three warm

    def call() -> None:
        nonlocal now
        now += next(took)

    monkeypatch.setattr(time, "perf_counter", lambda: now)
    found = time_calls(call, budget=50.0, rounds=9)
    assert (found.median, found.p95, found.rounds) == (3.0, 100.0, 5)
    assert time_calls(call, budget=1e9, rounds=9).rounds == 9


def test_load_that_slows_both_calls_does_not_change_the_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    now, rounds = 0.0, 0

    def call(seconds: float) -> None:
        nonlocal now, rounds
        rounds += 1
        busy = 10.0 if rounds > 24 else 1.0  # in the second half
        now += seconds * busy * (50.0 if rounds == 31 else 1.0)  # and once something came between

    monkeypatch.setattr(time, "perf_counter", lambda: now)
    assert time_ratio(lambda: call(0.3), lambda: call(0.4)) == pytest.approx(0.75)
    assert rounds == 48


def test_temporary_memory_is_measured() -> None:
    grown = measure_peak_memory(lambda: torch.ones(64 << 18).sum())
    if grown is None:
        pytest.skip("this system does not say how much memory a process had at most")
    assert 60 << 20 < grown < 200 << 20


def test_the_size_of_a_folder_is_that_of_its_files(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one").write_bytes(b"12345")
    (tmp_path / "two").write_bytes(b"123")
    assert bytes_on_disk(tmp_path) == 8
    assert bytes_on_disk(tmp_path / "two") == 3
