"""Search for the layers that stay in floating point, with exact costs."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from imgrec.compress.quantization.sensitivity import (
    BudgetSearch,
    Layers,
    divergence,
    group_layers,
    rank_layers,
    search_budget,
)

LAYERS = [f"layer{i}" for i in range(20)]


def searched(costs: dict[str, float], budget: float, max_kept: int) -> tuple[BudgetSearch[float], list[str]]:
    """Run the search with a cost per quantized layer. Return its result and the calls of the ranking."""
    calls: list[str] = []

    def rank() -> list[Layers]:
        calls.append("rank")
        return [
            group for group, _ in rank_layers(group_layers(list(costs)), lambda group: sum(costs[g] for g in group))
        ]

    found = search_budget(rank, lambda kept: sum(v for k, v in costs.items() if k not in kept), float, budget, max_kept)
    return found, calls


def test_layers_are_not_ranked_if_the_budget_is_met() -> None:
    found, calls = searched(dict.fromkeys(LAYERS, 0.01), 0.5, 10)
    assert found.holds
    assert found.best.kept == ()
    assert len(found.trials) == 1
    assert calls == []


@pytest.mark.parametrize("needed", range(1, 11))
def test_the_smallest_number_of_sensitive_layers_is_kept(needed: int) -> None:
    costs = {layer: (1.0 if i % 2 else 0.001) for i, layer in enumerate(LAYERS)}
    found, _ = searched(costs, 10.05 - needed, 12)
    assert found.holds
    assert found.best.kept == tuple(LAYERS[1::2][:needed])
    assert len(found.trials) <= 2 + 2 * np.ceil(np.log2(needed + 1))
    assert len({trial.kept for trial in found.trials}) == len(found.trials)


@pytest.mark.parametrize("most", [0, 1, 3, 5])
def test_a_missed_budget_returns_the_closest_trial(most: int) -> None:
    found, _ = searched(dict.fromkeys(LAYERS, 1.0), 2.0, most)
    assert not found.holds
    assert len(found.best.kept) == most
    assert found.best.result == 20 - most


def test_small_cases_equal_an_exhaustive_search() -> None:
    for costs in itertools.product((0.0, 1.0, 3.0), repeat=4):
        named = {f"l{i}": cost for i, cost in enumerate(costs)}
        order = sorted(named, key=lambda name: -named[name])
        for budget, most in itertools.product((0.0, 1.0, 4.0), range(5)):
            smallest = next((n for n in range(most + 1) if sum(named[name] for name in order[n:]) <= budget), None)
            found, _ = searched(named, budget, most)
            assert found.holds == (smallest is not None)
            if smallest is not None:
                assert found.best.kept == tuple(order[:smallest])


def test_long_networks_are_grouped_and_the_limit_counts_layers() -> None:
    costs = dict.fromkeys((f"layer{i}" for i in range(130)), 0.0) | {"layer7": 9.0}
    found, _ = searched(costs, 1.0, 3)
    assert found.best.kept == ("layer6", "layer7", "layer8")
    refused, _ = searched(costs, 1.0, 2)
    assert not refused.holds


def test_the_divergence_equals_that_of_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    before, after = (torch.randn(50, 7, generator=generator) for _ in range(2))
    expected = torch.nn.functional.kl_div(
        after.log_softmax(1), before.log_softmax(1), reduction="batchmean", log_target=True
    )
    assert divergence(before.numpy(), after.numpy()) == pytest.approx(expected.item(), rel=1e-5)
    assert divergence(before.numpy(), before.numpy() + 3) == pytest.approx(0, abs=1e-6)
