"""Search for outlier images: too small, too long, blank, dark, bright, blurred, grey."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgrec.audit.findings import Finding
from imgrec.audit.image_statistics import GREY


@dataclass(frozen=True)
class Limits:
    """Thresholds beyond which an image is an outlier.

    Most limits combine an absolute threshold with one relative to the median of the data set. An image is an outlier
    if it exceeds both. In a data set of night photographs, for example, no image is reported as dark.

    Args:
        side: Short side, in pixels. A smaller image is too small if its side is also below a quarter of the median.
            Defaults to 32.
        aspect: Long side divided by the short side. A larger ratio is odd if it is also above twice the median.
            Defaults to 3.
        blank: Standard deviation of the brightness, in 0..255, below which an image is blank. Defaults to 4.
        dark: Brightness, in 0..255. An image is dark if 99 % of its pixels are below it and below half of the usual
            value. Defaults to 64.
        bright: Brightness, in 0..255. An image is bright if 99 % of its pixels are above it, and closer to white than
            half of the usual distance. Defaults to 192.
        blur: Variance of the Laplacian. An image with less is blurred if its ratio to the variance of the brightness
            is also an outlier. Defaults to 100.
        deviations: Number of standard deviations of the logarithm of this ratio, estimated from the median absolute
            deviation, beyond which it is an outlier. Defaults to 3.5.
        grey: Largest share of grey images in the data set, in [0, 1], for which a grey image is a finding.
            Defaults to 0.2.
    """

    side: float = 32
    aspect: float = 3
    blank: float = 4
    dark: float = 64
    bright: float = 192
    blur: float = 100
    deviations: float = 3.5
    grey: float = 0.2


def quality_findings(records: NDArray[Any], limits: Limits | None = None) -> Iterator[Finding]:
    """Yield the findings of readable images whose measurements are outliers.

    Args:
        records: One ``RECORD`` per image.
        limits: Thresholds. Defaults to ``Limits()``.
    """
    limits = limits or Limits()
    at = np.flatnonzero(records["readable"])
    if not len(at):
        return
    seen = records[at]
    yield from _shape(at, seen, limits)
    blank = np.sqrt(seen["contrast"]) < limits.blank
    high, low = seen["high"].astype(float), 255.0 - seen["low"]
    light = (high < limits.dark) & (high < np.median(high) / 2)
    for i in np.flatnonzero(light):
        yield Finding(int(at[i]), "dark", f"99 % of the pixels are darker than {high[i] / 255:.0%} of white")
    for i in np.flatnonzero((low < 255 - limits.bright) & (low < np.median(low) / 2)):
        yield Finding(int(at[i]), "bright", f"99 % of the pixels are brighter than {1 - low[i] / 255:.0%} of white")
    for i in np.flatnonzero(blank):
        deviation = float(np.sqrt(seen["contrast"][i]))
        yield Finding(int(at[i]), "blank", f"the brightness has a standard deviation of {deviation:.1f} in 0..255")
    yield from _blurred(at, seen, blank, limits)
    grey = seen["colour"] < GREY
    if 0 < grey.mean() <= limits.grey:
        for i in np.flatnonzero(grey):
            yield Finding(int(at[i]), "grey", f"{1 - grey.mean():.1%} of the images have colour")


def _shape(at: NDArray[np.int64], seen: NDArray[Any], limits: Limits) -> Iterator[Finding]:
    short, long = np.minimum(seen["height"], seen["width"]), np.maximum(seen["height"], seen["width"])
    aspect = long / short
    usual_side, usual_aspect = float(np.median(short)), float(np.median(aspect))
    for i in np.flatnonzero((short < limits.side) & (short <= usual_side / 4)):
        pixels = f"{seen['width'][i]} x {seen['height'][i]} pixels (width x height)"
        yield Finding(int(at[i]), "too_small", f"{pixels}, the median short side is {usual_side:.0f}")
    for i in np.flatnonzero((aspect > limits.aspect) & (aspect > 2 * usual_aspect)):
        pixels = f"{seen['width'][i]} x {seen['height'][i]} pixels (width x height)"
        yield Finding(
            int(at[i]), "odd_aspect", f"{pixels}, {aspect[i]:.1f} to 1, the median is {usual_aspect:.1f} to 1"
        )


def _blurred(at: NDArray[np.int64], seen: NDArray[Any], blank: NDArray[np.bool_], limits: Limits) -> Iterator[Finding]:
    detail = np.log(np.maximum(seen["laplacian"], 1e-3) / np.maximum(seen["contrast"], 1e-3))
    middle = float(np.median(detail[~blank])) if (~blank).any() else 0.0
    spread = 1.4826 * float(np.median(np.abs(detail[~blank] - middle))) if (~blank).any() else 0.0
    unusual = detail < middle - max(limits.deviations * spread, np.log(4))
    for i in np.flatnonzero(unusual & ~blank & (seen["laplacian"] < limits.blur)):
        share = float(np.exp(detail[i] - middle))
        yield Finding(
            int(at[i]),
            "blurred",
            f"variance of the Laplacian {seen['laplacian'][i]:.1f}, relative to the contrast {share:.1%} of the median",
        )
