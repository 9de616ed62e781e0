"""Lottery tickets: training from early weights with the masks of a previous run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from imgrec import Pruning, UserError
from tests.callbacks.pruning_history import fit, prunable, zeros
from tests.callbacks.small_training import digits, in_two_parts, same, task, trainer


def test_ticket_starts_from_early_weights_with_final_masks(tmp_path: Path) -> None:
    dense, _, first, _ = fit(tmp_path / "0", [Pruning(0, rewind_to=0.25)])
    assert zeros(prunable(first["state_dict"])) == 0
    early = dense.weights[3]  # three steps of twelve
    assert same(prunable(first["callbacks"]["Pruning"]["rewind"]), early)

    history, _, second, _ = fit(tmp_path / "1", [Pruning(0.5, ticket=str(tmp_path / "0/last.ckpt"))])
    sizes = torch.cat([value.abs().flatten() for value in prunable(first["state_dict"]).values()])
    edge = sizes.sort().values[len(sizes) // 2]
    for name, start in history.weights[0].items():
        kept = prunable(first["state_dict"])[name].abs() >= edge
        assert torch.equal(start, early[name] * kept)
    assert zeros(history.after[-1]) == zeros(history.weights[0])

    third, _, _, _ = fit(tmp_path / "2", [Pruning(0.75, ticket=str(tmp_path / "1/last.ckpt"))])
    assert zeros(third.weights[0]) == round(0.75 * len(sizes))
    for name, start in third.weights[0].items():
        assert bool((start[second["state_dict"][name] == 0] == 0).all())  # masked weights stay masked
        assert torch.equal(start, early[name] * (start != 0))


@pytest.mark.slow
def test_resumed_ticket_is_bit_equal(tmp_path: Path) -> None:
    fit(tmp_path / "0", [Pruning(0, rewind_to=0.0)])
    first, second = in_two_parts(tmp_path, lambda: [Pruning(0.5, ticket=str(tmp_path / "0/last.ckpt"))], 5)
    for part in ("state_dict", "optimizer_states"):
        assert same(first[part], second[part]), part
    assert same(first["callbacks"]["Pruning"], second["callbacks"]["Pruning"])


def test_invalid_ticket_raises(tmp_path: Path) -> None:
    fit(tmp_path, [Pruning(0.5)], max_epochs=1)
    for ticket, message in (
        ("nowhere", "There is no nowhere"),
        (str(tmp_path / "last.ckpt"), "expected a run with weights to rewind to"),
    ):
        with pytest.raises(UserError, match=message):
            fit(tmp_path / "again", [Pruning(0.5, ticket=ticket)])
    fit(tmp_path / "wide", [Pruning(0, rewind_to=0.1)], max_epochs=1)
    other = task(backbone={"name": "resnet18", "layers": [1, 1, 1, 1], "channels": [8, 8, 8, 16], "stem_width": 8})
    wide = Pruning(0.5, ticket=str(tmp_path / "wide/last.ckpt"))
    with pytest.raises(UserError, match="another architecture"):
        trainer(tmp_path, [wide]).fit(other, datamodule=digits())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sparsity": 0.0}, "expected a value above 0, got 0"),
        ({"rewind_to": 1.0}, "rewind_to: expected float in"),
        ({"ticket": "a", "start": 0.5}, "Pruning.start: expected no value with a ticket"),
        ({"ticket": "a", "criterion": "taylor"}, "expected magnitude or random with a ticket, got taylor"),
    ],
)
def test_invalid_arguments_raise(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Pruning(**arguments)
