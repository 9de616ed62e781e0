"""Counters of the machine that a run can read without asking anybody: energy and peak memory."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from imgrec.utils.memory import process_memory

POWERCAP = Path("/sys/class/powercap")


class EnergyMeter(Protocol):
    """A counter of energy that only grows."""

    name: str

    def joules(self) -> float:
        """What was used since the meter was made."""


class RaplMeter:
    """The energy of one processor package, by Intel's and AMD's Running Average Power Limit counters.

    The counter wraps around after its range, in tens of minutes at full load: read it at least that often.

    Args:
        zone: its folder, ``/sys/class/powercap/intel-rapl:0``.

    Raises:
        OSError: the counter cannot be read; since Linux 5.10 only root may, where nobody changed it.
    """

    def __init__(self, zone: Path) -> None:
        self.name = f"rapl:{(zone / 'name').read_text().strip()}"
        self._counter = zone / "energy_uj"
        self._range = int((zone / "max_energy_range_uj").read_text()) + 1
        self._last = int(self._counter.read_text())
        self._total = 0

    def joules(self) -> float:
        """What was used since the meter was made."""
        now = int(self._counter.read_text())
        self._total += (now - self._last) % self._range
        self._last = now
        return self._total / 1e6


class NvmlMeter:
    """The energy of one NVIDIA GPU, by the driver's own counter (Volta and later).

    Args:
        uuid: the GPU's, as ``torch.cuda.get_device_properties(i).uuid`` gives it, without ``GPU-``.

    Raises:
        OSError: there is no driver, or no such counter.
    """

    def __init__(self, uuid: str) -> None:
        self.name = "nvml"
        self._nvml = ctypes.CDLL("libnvidia-ml.so.1")
        self._device = ctypes.c_void_p()
        self._call("nvmlInit_v2")
        self._call("nvmlDeviceGetHandleByUUID", f"GPU-{uuid}".encode(), ctypes.byref(self._device))
        self._first = self._millijoules()

    def joules(self) -> float:
        """What was used since the meter was made."""
        return (self._millijoules() - self._first) / 1e3

    def _millijoules(self) -> int:
        value = ctypes.c_ulonglong()
        self._call("nvmlDeviceGetTotalEnergyConsumption", self._device, ctypes.byref(value))
        return value.value

    def _call(self, function: str, *arguments: object) -> None:
        status = getattr(self._nvml, function)(*arguments)
        if status:
            raise OSError(f"{function} gave status {status}")


def energy_meters(
    gpus: Sequence[str] = (), powercap: Path = POWERCAP, processors: bool = True
) -> tuple[list[EnergyMeter], str | None]:
    """The meters that this process can read, and why there is none where there is none.

    Args:
        gpus: the UUIDs of the GPUs that this process computes on.
        powercap: where the system shows its processors' counters.
        processors: whether to read these; of several processes on one machine only one should.
    """
    found: list[EnergyMeter] = []
    reasons: list[str] = []
    for uuid in gpus:
        try:
            found.append(NvmlMeter(uuid))
        except (OSError, AttributeError) as error:
            reasons.append(f"GPU: {error}")
    if processors:
        # a zone with one colon is a package; the parts of a package have two, and are in its figure already
        zones = sorted(z for z in powercap.glob("intel-rapl:*") if z.name.count(":") == 1)
        packages = [z for z in zones if _reads(z / "name").startswith("package")]
        for zone in packages:
            try:
                found.append(RaplMeter(zone))
            except (OSError, ValueError) as error:
                reasons.append(f"processor: {getattr(error, 'strerror', None) or error}")
        if not packages:
            reasons.append("processor: the system shows no energy counter")
    return found, None if found else "; ".join(dict.fromkeys(reasons)) or None


def peak_memory() -> float | None:
    """The most memory that this process has held so far, in GiB, without its children; ``None`` where unknown."""
    peak = process_memory("peak")
    return None if peak is None else peak / 2**30


def _reads(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
