from __future__ import annotations

from typing import Any

import pytest

from imgrec.errors import SpecError
from imgrec.models import resolve_normalize

BACKBONE = ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def test_named_normalizations() -> None:
    assert resolve_normalize("auto", *BACKBONE, 3) == BACKBONE
    assert resolve_normalize("half", *BACKBONE, 1) == ((0.5,), (0.5,))
    mean, std = resolve_normalize("imagenet", *BACKBONE, 3)
    assert mean == (0.485, 0.456, 0.406)
    assert std == (0.229, 0.224, 0.225)


def test_one_channel_uses_the_mean() -> None:
    mean, std = resolve_normalize("auto", *BACKBONE, 1)
    assert mean == pytest.approx((0.2,))
    assert std == pytest.approx((0.5,))


def test_given_values_are_unchanged() -> None:
    assert resolve_normalize({"mean": [0, 1, 0.5], "std": [1, 2, 3]}, *BACKBONE, 3) == ((0, 1, 0.5), (1, 2, 3))


@pytest.mark.parametrize(
    ("given", "channels", "words"),
    [
        ("imagnet", 3, ['"imagnet"', '"imagenet"']),
        ({"mean": [0.5], "std": [0.5]}, 3, ["mean", "3 value(s)", "[0.5]"]),
        ({"mean": [0.5]}, 1, ["mean", "std"]),
        ({"mean": [0.5], "std": [0.0]}, 1, ["std", "above 0"]),
        ({"mean": ["a"], "std": [1.0]}, 1, ["mean", "number per channel"]),
        (None, 1, ["auto", "half"]),
    ],
)
def test_invalid_normalize_raises_with_its_key(given: Any, channels: int, words: list[str]) -> None:
    with pytest.raises(SpecError) as caught:
        resolve_normalize(given, *BACKBONE, channels, "model.normalize")
    for word in ["model.normalize", *words]:
        assert word in str(caught.value)
