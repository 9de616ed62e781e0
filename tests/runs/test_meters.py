"""Counters of the machine, read from a folder that looks as Linux shows them, and from this machine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from imgrec.runs.system import NvmlMeter, RaplMeter, energy_meters, peak_process_memory_gib


@pytest.fixture
def powercap(tmp_path: Path) -> Path:
    """Two packages, each with its cores as a part, and the platform, which includes both packages."""
    for zone, name, joules in (
        ("intel-rapl:0", "package-0", 10),
        ("intel-rapl:0:0", "core", 7),
        ("intel-rapl:1", "package-1", 20),
        ("intel-rapl:2", "psys", 99),
    ):
        (tmp_path / zone).mkdir()
        (tmp_path / zone / "name").write_text(f"{name}\n")
        (tmp_path / zone / "max_energy_range_uj").write_text("99999999\n")
        use(tmp_path / zone, joules)
    return tmp_path


def use(zone: Path, joules: float) -> None:
    (zone / "energy_uj").write_text(f"{int(joules * 1e6)}\n")


def test_meters_exclude_parts_of_packages(powercap: Path) -> None:
    meters, why = energy_meters(powercap=powercap)
    assert [meter.name for meter in meters] == ["rapl:package-0", "rapl:package-1"]
    assert why is None
    for zone in powercap.iterdir():
        use(zone, 50)
    assert [meter.joules() for meter in meters] == [40, 30]


def test_wrapped_counter_continues(powercap: Path) -> None:
    meter = RaplMeter(powercap / "intel-rapl:1")
    for joules in (90, 15, 95, 5):  # of 100: 70 more, then 25, 80, 10
        use(powercap / "intel-rapl:1", joules)
        last = meter.joules()
    assert last == pytest.approx(185)


def test_missing_meter_has_a_reason(powercap: Path, tmp_path: Path) -> None:
    meters, why = energy_meters(powercap=tmp_path / "nowhere")
    assert (meters, why) == ([], "processor: no energy counter")
    for zone in powercap.iterdir():
        (zone / "energy_uj").unlink()  # the rights to read it cannot be taken from root
    meters, why = energy_meters(powercap=powercap)
    assert (meters, why) == ([], "processor: No such file or directory")
    assert energy_meters(powercap=powercap, processors=False) == ([], None)


def test_memory_is_the_peak_and_does_not_fall() -> None:
    before = peak_process_memory_gib()
    assert before is not None
    block = np.ones(200 * 2**20, np.uint8)
    during = peak_process_memory_gib()
    assert during is not None
    assert during >= before
    assert during >= 0.2
    del block
    assert peak_process_memory_gib() == pytest.approx(during, rel=0.05)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no NVIDIA GPU")
def test_a_gpu_counts_what_it_uses() -> None:
    meter = NvmlMeter(str(torch.cuda.get_device_properties(0).uuid))
    x = torch.rand(4096, 4096, device="cuda")
    for _ in range(200):
        x = x @ x / 4096
    torch.cuda.synchronize()
    first = meter.joules()
    assert first > 0
    for _ in range(200):
        x = x @ x / 4096
    torch.cuda.synchronize()
    assert meter.joules() > first


def test_without_a_driver_there_is_no_meter_of_a_gpu() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a driver")
    meters, why = energy_meters(["no-such-gpu"], powercap=Path("/nowhere"))
    assert meters == []
    assert why is not None
    assert why.startswith("GPU: ")
