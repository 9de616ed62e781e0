from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from imgrec.data import SAMPLERS, Source, TrainingSampler, strata
from imgrec.errors import UserError
from tests.data.helpers import BlankTable


def table(counts: list[int], **arguments: Any) -> BlankTable:
    targets = np.repeat(np.arange(len(counts)), counts)
    return BlankTable(
        [str(i) for i in range(len(targets))], targets, [f"c{i}" for i in range(len(counts))], **arguments
    )


def order_of(source: Source, sampler: str | dict[str, Any], seed: int = 0, **arguments: Any) -> TrainingSampler:
    rows = np.arange(len(source))
    repeats = SAMPLERS.build(sampler).repeats(source, rows)
    return TrainingSampler(len(rows), seed, repeats=repeats, strata=strata(source, rows), **arguments)


def epoch(order: TrainingSampler, number: int = 0) -> list[int]:
    order.set_epoch(number)
    return [place for place, _ in order]


def seen(source: Source, order: TrainingSampler, number: int) -> list[int]:
    """Return the number of images of each class in an epoch."""
    places = np.asarray(epoch(order, number)) % len(source)
    return [int(n) for n in np.bincount(source.targets[places], minlength=len(source.class_names))]


def test_balanced_shows_each_class_equally_often_in_every_epoch() -> None:
    source = table([170, 20, 10])
    order = order_of(source, "balanced")
    for number in range(10):
        assert len(epoch(order, number)) == len(order) == 200
        assert all(66 <= count <= 67 for count in seen(source, order, number))
    rare = Counter(place % 200 for place in epoch(order, 0) if source.targets[place % 200] == 2)
    assert set(rare.values()) == {6, 7}  # 66.7 among ten images, evenly
    assert len(rare) == 10


@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0, 1.5])
def test_the_temperature_determines_the_frequency_of_a_class(temperature: float) -> None:
    counts = np.array([800.0, 150, 50])
    source = table([800, 150, 50])
    order = order_of(source, {"name": "class_aware", "temperature": temperature})
    share = counts ** (1 - temperature)
    expected = 1000 * share / share.sum()
    assert np.abs(np.asarray(seen(source, order, 4)) - expected).max() <= 1


def test_temperature_0_is_every_image_once() -> None:
    order = order_of(table([30, 12]), {"name": "class_aware", "temperature": 0.0})
    assert sorted(epoch(order, 3)) == list(range(42))


def repeat_factors(counts: NDArray[np.float64], threshold: float) -> list[float]:
    """Compute the factors of the appendix of the paper."""
    return [max(1.0, (threshold / (count / counts.sum())) ** 0.5) for count in counts]


def test_repeat_factors_are_the_papers() -> None:
    counts = np.array([900.0, 80, 20])
    source = table([900, 80, 20])
    sampler = SAMPLERS.build({"name": "repeat_factor", "threshold": 0.1})
    found = sampler.repeats(source, np.arange(1000))
    assert np.allclose([found[0], found[900], found[980]], repeat_factors(counts, 0.1))
    order = order_of(source, {"name": "repeat_factor", "threshold": 0.1})
    assert len(order) == int(np.ceil(found.sum()))
    totals = np.zeros(1000)
    for number in range(300):
        places = np.bincount(np.asarray(epoch(order, number)) % 1000, minlength=1000)
        assert places.min() >= 1  # nothing is left out
        assert ((places == np.floor(found)) | (places == np.floor(found) + 1)).all()
        totals += places
    assert abs(totals[980:].mean() / 300 - found[980]) < 0.02
    assert abs(totals[900:980].mean() / 300 - found[900]) < 0.02
    assert (np.abs(totals / 300 - found) < 0.15).all()  # each image, not only each class


def test_an_image_with_several_labels_goes_by_its_rarest() -> None:
    labels = np.zeros((100, 2))
    labels[:80, 0] = 1
    labels[75:85, 1] = 1  # 75 have the first alone, 5 both, 5 the second alone, 15 none
    source = BlankTable([str(i) for i in range(100)], labels, ["often", "rare"])
    found = SAMPLERS.build({"name": "repeat_factor", "threshold": 0.4}).repeats(source, np.arange(100))
    assert np.allclose(found[:75], 1)
    assert np.allclose(found[75:85], 2)  # sqrt(0.4 / 0.1)
    assert np.allclose(found[85:], 1)
    balanced = SAMPLERS.build("balanced").repeats(source, np.arange(100))
    assert balanced.sum() == pytest.approx(100)
    assert balanced[80] / balanced[0] == pytest.approx(8)
    assert strata(source, np.arange(100)) is None


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    source = table([50, 7])
    first = epoch(order_of(source, "balanced", seed=1), 3)
    torch.manual_seed(5)
    assert epoch(order_of(source, "balanced", seed=1), 3) == first
    assert epoch(order_of(source, "balanced", seed=1), 4) != first
    assert epoch(order_of(source, "balanced", seed=2), 3) != first


def test_processes_divide_the_epoch_and_resume() -> None:
    source = table([50, 8])
    alone = epoch(order_of(source, "balanced"), 2)
    ranks = [epoch(order_of(source, "balanced", rank=rank, world_size=2), 2) for rank in range(2)]
    assert [place for pair in zip(*ranks, strict=True) for place in pair] == alone
    assert epoch(order_of(source, "balanced", skip=lambda: 20), 2) == alone[20:]


def test_copies_of_an_image_have_places_of_their_own() -> None:
    source = table([50, 5])
    places = epoch(order_of(source, "balanced"))
    assert len(set(places)) == len(places)
    copies = sorted(place // 55 for place in places if place % 55 == 54)
    assert copies == list(range(len(copies)))
    assert len(copies) >= 5


def test_the_weights_of_a_source_count() -> None:
    source = table([60, 20], repeats=[1.0] * 60 + [1.5] * 20)
    found = SAMPLERS.build("balanced").repeats(source, np.arange(80))
    assert found.sum() == pytest.approx(90)
    assert found[:60].sum() == pytest.approx(45)
    order = TrainingSampler(80, 0, repeats=source.repeats, strata=strata(source, np.arange(80)))
    assert seen(source, order, 0) == [60, 30]


def test_a_class_without_training_image_is_passed_over() -> None:
    source = table([6, 3, 3])
    found = SAMPLERS.build("balanced").repeats(source, np.arange(9))
    assert np.allclose(found, [0.75] * 6 + [1.5] * 3)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "class_aware", "temperature": -1}, "data.sampler.temperature: expected float >= 0, got -1"),
        ({"name": "repeat_factor", "threshold": 0}, r"data\.sampler\.threshold: expected float in \(0, 1\]"),
        ("balance", 'no sampler is called "balance". Did you mean "balanced"'),
    ],
)
def test_invalid_arguments_are_rejected(spec: str | dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        SAMPLERS.build(spec, "data.sampler")


def test_every_sampler_has_a_source() -> None:
    assert all(entry.reference for entry in SAMPLERS)
