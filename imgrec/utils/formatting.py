"""Formatting of durations, counts, sizes in bytes and config values."""

from __future__ import annotations

import json
import re
from typing import Any


def duration(seconds: float) -> str:
    """Return a duration with at most two units.

    >>> duration(7.25), duration(74.2), duration(7500)
    ('7.2 s', '1 min 14 s', '2 h 05 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def short_count(count: int) -> str:
    """Return a count with three significant digits.

    >>> short_count(650), short_count(11_181_642)
    ('650', '11.2 M')
    """
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g} {letter}"
    return str(count)


def format_size(size: int) -> str:
    """Return a size in bytes with a binary unit.

    >>> format_size(900), format_size(2_516_582)
    ('900 B', '2.4 MiB')
    """
    if size < 1024:
        return f"{size} B"
    for unit, letters in ((2**30, "GiB"), (2**20, "MiB")):
        if size >= unit:
            return f"{size / unit:,.1f} {letters}"
    return f"{size / 1024:,.1f} KiB"


def parse_byte_size(text: str) -> int:
    """Return the number of bytes of a size with a unit.

    Raises:
        ValueError: If the text is not a size with a unit.

    >>> parse_byte_size("1.5GiB"), parse_byte_size("500 MB"), parse_byte_size("64 kb")
    (1610612736, 500000000, 64000)
    """
    found = re.fullmatch(r"([0-9]*\.?[0-9]+)\s*([kmgt])(i?)b", str(text).strip(), re.IGNORECASE)
    if found is None or float(found[1]) == 0:
        raise ValueError(f"expected a size with its unit, such as 6GiB or 500MB, got {text!r}")
    unit: int = (1024 if found[3] else 1000) ** ("kmgt".index(found[2].lower()) + 1)
    return round(float(found[1]) * unit)


def config_value(value: Any) -> str:
    """Return a config value on one line. ``None`` is a dash.

    >>> config_value(0.001), config_value(None), config_value([1, 2]), config_value("focal")
    ('0.001', '—', '[1, 2]', 'focal')
    """
    if value is None:
        return "—"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def epoch_text(epoch: int, epochs: int | None = None) -> str:
    """Return an epoch as text, counted from 1, with the number of epochs if it is given.

    ``best_epoch`` of summary.json, the column ``epoch`` of metrics.csv, W&B and Python count epochs from 0, as
    Lightning does. Texts and titles count from 1.

    >>> epoch_text(0), epoch_text(4, 20)
    ('epoch 1', 'epoch 5 of 20')
    """
    return f"epoch {epoch + 1}" + ("" if epochs is None else f" of {epochs}")
