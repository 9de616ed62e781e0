"""The minimum of the expected loss under label smoothing and class weights, found numerically."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from imgrec.losses import LOSSES, ClassWeights, resolve_class_weights

CLASSES = 10
COUNTS = tuple(round(300 * 100 ** (-i / (CLASSES - 1))) for i in range(CLASSES))  # 300, 180, ..., 5, 3
NAMES = tuple(f"class {i}" for i in range(CLASSES))
FACTS: dict[str, Any] = {"num_classes": CLASSES, "class_names": NAMES, "class_counts": COUNTS}
WEIGHTINGS: list[Any] = [
    None,
    "balanced",
    "effective",
    {"name": "effective", "beta": 0.9},
    [float(i + 1) for i in range(CLASSES)],
    {NAMES[9]: 100.0},
]
SMOOTHING = 0.1


def smoothing_specs() -> list[dict[str, Any]]:
    """Return specs of every loss with label smoothing, with every form of class weights."""
    specs: list[dict[str, Any]] = []
    for name in LOSSES.names():
        entry = LOSSES.entry(name)
        if "label_smoothing" not in entry.parameters:
            continue
        spec = {"name": name, "label_smoothing": SMOOTHING}
        weights = next((a for a in ("class_weights", "alpha") if entry.hints.get(a) == ClassWeights), None)
        if weights is not None or any(p.kind == p.VAR_KEYWORD for p in entry.parameters.values()):
            specs += [{**spec, **({} if way is None else {weights or "class_weights": way})} for way in WEIGHTINGS]
        elif name == "logit_adjusted":
            specs += [{**spec, "tau": tau} for tau in (0.0, 0.5, 1.0)]
        else:
            specs.append(spec)
    return specs


def preference(spec: dict[str, Any]) -> torch.Tensor:
    """Return the factor of each class's posterior in the decision that the loss defines."""
    if "tau" in spec:
        return torch.tensor(COUNTS, dtype=torch.float64).pow(-float(spec["tau"]))
    weights = resolve_class_weights(spec.get("class_weights"), CLASSES, NAMES, COUNTS)
    return torch.ones(CLASSES, dtype=torch.float64) if weights is None else weights.double()


def minimizer(loss: torch.nn.Module, kinds: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the logits of each kind of image that minimize the loss of a training set of (kind, label) pairs."""
    free = torch.zeros(int(kinds.max()) + 1, CLASSES, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS(
        [free], max_iter=100, tolerance_grad=1e-7, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        solver.zero_grad()
        value: torch.Tensor = loss(free[kinds], labels)
        torch.autograd.backward(value)
        return value.detach()

    solver.step(closure)  # type: ignore[no-untyped-call]
    return free.detach()


@pytest.mark.parametrize("spec", smoothing_specs(), ids=str)
def test_smoothing_leaves_the_predicted_class_of_the_optimum(spec: dict[str, Any]) -> None:
    """The optimum predicts the class with the largest weighted posterior, for certain and for uncertain inputs."""
    loss = LOSSES.build(spec, **FACTS).double()
    counts = torch.tensor(COUNTS)
    likelihood = torch.randn(CLASSES, CLASSES, generator=torch.Generator().manual_seed(3)).mul(2).softmax(0)
    table = torch.cat([counts.diag(), (likelihood * counts).round().long()])  # images of each kind (row) and class
    number = table.reshape(-1)
    kinds = torch.arange(2 * CLASSES).repeat_interleave(CLASSES).repeat_interleave(number)
    labels = torch.arange(CLASSES).repeat(2 * CLASSES).repeat_interleave(number)
    found = minimizer(loss, kinds, labels).argmax(1)
    assert found[:CLASSES].tolist() == list(range(CLASSES))
    assert found.tolist() == (table * preference(spec)).argmax(1).tolist()


def test_the_optimum_of_weighted_smoothed_cross_entropy_is_the_smoothed_weighted_posterior() -> None:
    loss = LOSSES.build(
        {"name": "cross_entropy", "class_weights": "balanced", "label_smoothing": SMOOTHING}, **FACTS
    ).double()
    labels = torch.arange(CLASSES).repeat_interleave(torch.tensor(COUNTS))
    found = minimizer(loss, torch.zeros_like(labels), labels).softmax(1)
    # one kind of image: balanced weights make its weighted posterior uniform, and smoothing leaves that uniform
    torch.testing.assert_close(found, torch.full_like(found, 0.1), atol=1e-6, rtol=0)
    certain = minimizer(loss, labels, labels).softmax(1)
    expected = (1 - SMOOTHING) * torch.eye(CLASSES, dtype=torch.float64) + SMOOTHING / CLASSES
    torch.testing.assert_close(certain, expected, atol=1e-6, rtol=0)
