"""Latency of a compressed model compared with the model that it was made from."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from torch import Tensor

from imgrec.compress.profiling import time_pair
from imgrec.export import Loaded
from imgrec.export.formats.registry import find_format, format_names
from imgrec.export.runtimes.registry import open_runtime, runtime_class

_ROUNDS = 31


def compare_latency(
    product: Loaded | Path, dense: Loaded, images: Tensor, runtime: str = "torch", precision: str | None = None
) -> dict[str, Any]:
    """Measure the latency of one image on one thread, before and after, in turn and in the same runtime.

    Args:
        product: Compressed model, or folder of its export.
        dense: Model that it was made from, in float32.
        images: Images, of which the first is used.
        runtime: See :func:`imgrec.export.runtimes.registry.open_runtime`. Defaults to ``torch``.
        precision: Precision in which the runtime computes the product. Defaults to that of the runtime.

    Returns:
        Plain data: ``before`` and ``after`` in milliseconds, the speed-up as ``ratio``, and the conditions of the
        measurement.
    """
    facts = dense.facts
    image = images[:1].float().div(255).cpu().numpy()
    with tempfile.TemporaryDirectory() as place:
        other: object = dense.classifier
        if runtime_class(runtime).suffixes:
            format = find_format(format_names(runtime)[0])
            other = format.write(dense.classifier, facts, Path(place) / f"dense{format.suffix}")
        ours = product if isinstance(product, Path) else product.classifier
        with (
            open_runtime(ours, runtime, precision=precision, facts=facts) as after,
            open_runtime(other, runtime, facts=facts) as before,  # type: ignore[arg-type]
        ):
            found = time_pair(lambda: after(image), lambda: before(image), _ROUNDS)
    return {
        "before": 1e3 * found.base,
        "after": 1e3 * found.call,
        "ratio": 1 / found.ratio,
        "runtime": runtime,
        "batch": 1,
        "threads": 1,
    }
