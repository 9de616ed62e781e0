"""How long a variant's network takes for an image, beside the network that it was made from."""

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


def latency_beside(
    product: Loaded | Path, dense: Loaded, images: Tensor, runtime: str = "torch", precision: str | None = None
) -> dict[str, Any]:
    """Milliseconds of a call with one image on one thread, before and after, both in the same runtime and in turn.

    Args:
        product: the variant's network, or the folder of its export.
        dense: the network that it was made from; it computes in float32.
        images: one or more images, of which the first is taken.
        runtime: see :func:`imgrec.export.runtimes.registry.open_runtime`.
        precision: what the runtime is told to compute the product in.

    Returns:
        ``before`` and ``after`` in milliseconds, ``ratio`` as how many times faster, and how it was measured: plain
        data.
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
