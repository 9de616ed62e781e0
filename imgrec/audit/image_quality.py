"""Images that are unlike the others: too small, too long, blank, dark, bright, blurred, grey."""

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
    """From where on an image is unlike the others.

    Each limit has two parts, one that is fixed and one that looks at the other images, and both must be passed: a set
    of night photographs is dark, and no fault of any of them.

    Args:
        side: pixels; a short side below it, and below a quarter of the usual one, is too small.
        aspect: the long side over the short one; above it, and above twice the usual one, it is odd.
        blank: the standard deviation of the brightness, in 0..255, below which an image is blank.
        dark: the brightness, in 0..255, below which 99 % of the pixels of a dark image are; and below half the usual.
        bright: the brightness above which 99 % of the pixels of a bright image are; likewise, as seen from white.
        blur: the variance of the Laplacian below which an image may be blurred; it is where, over the variance of
            the brightness, it is unusual too.
        deviations: how many standard deviations, by the median's measure and of the logarithm, are unusual.
        grey: a grey image is a finding where the share of grey images is at most this.
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
    """What is unusual of the images that could be read.

    Args:
        records: one ``RECORD`` an image.
        limits: what is unusual.
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
            yield Finding(int(at[i]), "grey", f"{1 - grey.mean():.1%} of the images are coloured")


def _shape(at: NDArray[np.int64], seen: NDArray[Any], limits: Limits) -> Iterator[Finding]:
    short, long = np.minimum(seen["height"], seen["width"]), np.maximum(seen["height"], seen["width"])
    aspect = long / short
    usual_side, usual_aspect = float(np.median(short)), float(np.median(aspect))
    for i in np.flatnonzero((short < limits.side) & (short <= usual_side / 4)):
        pixels = f"{seen['width'][i]} x {seen['height'][i]} pixels (width x height)"
        yield Finding(int(at[i]), "too_small", f"{pixels}; the usual short side is {usual_side:.0f}")
    for i in np.flatnonzero((aspect > limits.aspect) & (aspect > 2 * usual_aspect)):
        pixels = f"{seen['width'][i]} x {seen['height'][i]} pixels (width x height)"
        yield Finding(int(at[i]), "odd_aspect", f"{pixels}, {aspect[i]:.1f} to 1; usual is {usual_aspect:.1f} to 1")


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
            f"variance of the Laplacian {seen['laplacian'][i]:.1f}: for its contrast, {share:.1%} of the usual",
        )
