"""Energy and memory counters of the machine, and the totals of the ``system/`` columns of metrics.csv."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from imgrec.runs.metrics_csv import MetricSeries
from imgrec.utils.memory import process_memory

PREFIX = "system/"
"""Prefix of the columns on machine and time. Two equal runs differ only in these."""

SECONDS = "system/seconds"
"""Column with the time of a row, in seconds since the start of the run."""

POWERCAP = Path("/sys/class/powercap")


class EnergyMeter(Protocol):
    """Monotonic counter of energy."""

    name: str

    def joules(self) -> float:
        """Return the energy since the construction of the meter, in joules."""


class RaplMeter:
    """Energy of one processor package, from the Running Average Power Limit counters of Intel and AMD.

    The counter wraps around, in tens of minutes at full load, and must be read more often than that.

    Args:
        zone: Folder of the package, ``/sys/class/powercap/intel-rapl:0``.

    Raises:
        OSError: If the counter cannot be read. Since Linux 5.10 it is readable only by root by default.
    """

    def __init__(self, zone: Path) -> None:
        self.name = f"rapl:{(zone / 'name').read_text().strip()}"
        self._counter = zone / "energy_uj"
        self._range = int((zone / "max_energy_range_uj").read_text()) + 1
        self._last = int(self._counter.read_text())
        self._total = 0

    def joules(self) -> float:
        """Return the energy since the construction of the meter, in joules."""
        now = int(self._counter.read_text())
        self._total += (now - self._last) % self._range
        self._last = now
        return self._total / 1e6


class NvmlMeter:
    """Energy of one NVIDIA GPU, from the counter of the driver (Volta and later).

    Args:
        uuid: UUID of the GPU as in ``torch.cuda.get_device_properties(i).uuid``, without ``GPU-``.

    Raises:
        OSError: If there is no driver or no such counter.
    """

    def __init__(self, uuid: str) -> None:
        self.name = "nvml"
        self._nvml = ctypes.CDLL("libnvidia-ml.so.1")
        self._device = ctypes.c_void_p()
        self._call("nvmlInit_v2")
        self._call("nvmlDeviceGetHandleByUUID", f"GPU-{uuid}".encode(), ctypes.byref(self._device))
        self._first = self._millijoules()

    def joules(self) -> float:
        """Return the energy since the construction of the meter, in joules."""
        return (self._millijoules() - self._first) / 1e3

    def _millijoules(self) -> int:
        value = ctypes.c_ulonglong()
        self._call("nvmlDeviceGetTotalEnergyConsumption", self._device, ctypes.byref(value))
        return value.value

    def _call(self, function: str, *arguments: object) -> None:
        status = getattr(self._nvml, function)(*arguments)
        if status:
            raise OSError(f"{function} returned status {status}")


def energy_meters(
    gpus: Sequence[str] = (), powercap: Path = POWERCAP, processors: bool = True
) -> tuple[list[EnergyMeter], str | None]:
    """Return the readable energy meters, and the reason if there is none.

    Args:
        gpus: UUIDs of the GPUs of this process.
        powercap: Folder of the processor counters.
        processors: If True, read the processor counters. Only one process per machine should. Defaults to True.
    """
    found: list[EnergyMeter] = []
    reasons: list[str] = []
    for uuid in gpus:
        try:
            found.append(NvmlMeter(uuid))
        except (OSError, AttributeError) as error:
            reasons.append(f"GPU: {error}")
    if processors:
        # a zone with one colon is a package, which includes its parts with two colons
        zones = sorted(z for z in powercap.glob("intel-rapl:*") if z.name.count(":") == 1)
        packages = [z for z in zones if _read_text(z / "name").startswith("package")]
        for zone in packages:
            try:
                found.append(RaplMeter(zone))
            except (OSError, ValueError) as error:
                reasons.append(f"processor: {getattr(error, 'strerror', None) or error}")
        if not packages:
            reasons.append("processor: no energy counter")
    return found, None if found else "; ".join(dict.fromkeys(reasons)) or None


def peak_process_memory_gib() -> float | None:
    """Return the peak memory of this process without its children in GiB, or ``None`` if it is not available."""
    peak = process_memory("peak")
    return None if peak is None else peak / 2**30


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


def system_totals(metrics: Mapping[str, MetricSeries]) -> dict[str, float]:
    """Return the totals of a run for its summary. Empty if none were logged.

    Images per second and the fraction of waiting are medians over the epochs, because the first epoch is a warm-up.
    Memory is the maximum and energy is the sum.
    """
    reductions: dict[str, Callable[[NDArray[np.float64]], Any]] = {
        "images_per_second": np.median,
        "data_wait": np.median,
        "peak_memory_gib": np.max,
        "peak_gpu_memory_gib": np.max,
        "energy_joules": np.sum,
    }
    return {
        name: float(f"{float(reduce(metrics[PREFIX + name].values)):.6g}")
        for name, reduce in reductions.items()
        if PREFIX + name in metrics
    }


def system_rows(metrics: Mapping[str, MetricSeries], environment: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the totals as rows of title and text. Empty if nothing was logged.

    If energy was not measured, its row contains the reason of environment.json.
    """
    totals = system_totals(metrics)
    if not totals:
        return []
    texts = {
        "images_per_second": ("Images per second", "{:,.0f} in training, median of the epochs"),
        "data_wait": ("Waiting for data", "{:.1f} % of the training time, median of the epochs"),
        "peak_memory_gib": ("Peak memory", "{:.2f} GiB, without loader workers"),
        "peak_gpu_memory_gib": ("Peak GPU memory", "{:.2f} GiB"),
        "energy_joules": ("Energy", "{:,.0f} J in all epochs"),
    }
    shown = totals | ({"data_wait": 100 * totals["data_wait"]} if "data_wait" in totals else {})
    rows = [(title, text.format(shown[name])) for name, (title, text) in texts.items() if name in totals]
    reason = (environment.get("hardware") or {}).get("energy")
    if "energy_joules" not in totals and isinstance(reason, str):
        rows.append(("Energy", reason))
    return rows
