"""What a run asked of the machine in all, from the ``system/`` columns of its metrics.csv."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgrec.runs.metrics_csv import MetricSeries

PREFIX = "system/"
"""Begins the columns that are about the machine and the clock: two equal runs differ in these alone."""

SECONDS = "system/seconds"
"""When a row was written, in seconds since the run began."""


def system_totals(metrics: Mapping[str, MetricSeries]) -> dict[str, float]:
    """The figures of a whole run, for its summary; empty where none were logged.

    Images a second and the share of waiting are medians over the epochs (the first one warms up), memory is the
    largest, energy the sum.
    """
    over: dict[str, Callable[[NDArray[np.float64]], Any]] = {
        "images_per_second": np.median,
        "data_wait": np.median,
        "peak_memory_gib": np.max,
        "peak_gpu_memory_gib": np.max,
        "energy_joules": np.sum,
    }
    return {
        name: float(f"{float(total(metrics[PREFIX + name].values)):.6g}")
        for name, total in over.items()
        if PREFIX + name in metrics
    }


def system_rows(metrics: Mapping[str, MetricSeries], environment: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The totals as a person reads them: what was measured, and its figure; empty where nothing was.

    Energy that was not measured is said to be so, with the reason that environment.json gives.
    """
    totals = system_totals(metrics)
    if not totals:
        return []
    said = {
        "images_per_second": ("Images a second", "{:,.0f} in training, median of the epochs"),
        "data_wait": ("Waiting for data", "{:.1f} % of the time of training, median of the epochs"),
        "peak_memory_gib": ("Peak memory", "{:.2f} GiB, without loader workers"),
        "peak_gpu_memory_gib": ("Peak GPU memory", "{:.2f} GiB"),
        "energy_joules": ("Energy", "{:,.0f} J in all epochs"),
    }
    shown = totals | ({"data_wait": 100 * totals["data_wait"]} if "data_wait" in totals else {})
    rows = [(title, text.format(shown[name])) for name, (title, text) in said.items() if name in totals]
    reason = (environment.get("hardware") or {}).get("energy")
    if "energy_joules" not in totals and isinstance(reason, str):
        rows.append(("Energy", reason))
    return rows
