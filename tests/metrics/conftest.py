from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

Drawn = tuple[NDArray[np.float32], NDArray[np.int64]]


@pytest.fixture(scope="module")
def drawn() -> Drawn:
    """Logits of seven classes that are right more often than not."""
    generator = np.random.default_rng(0)
    targets = generator.integers(0, 7, 900)
    logits = generator.normal(size=(900, 7)).astype(np.float32)
    logits[np.arange(900), targets] += 1.5
    return logits, targets
