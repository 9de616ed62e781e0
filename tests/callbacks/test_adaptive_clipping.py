from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from timm.utils.agc import adaptive_clip_grad

from imgrec import AdaptiveClipping
from imgrec.errors import UserError
from imgrec.optim.gradient_clipping import clip_adaptively_, unit_norms
from tests.callbacks.small_training import digits, task, trainer


def test_clipping_equals_timm() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(8, 4, 3, 3), (5, 8), (5,), (8, 1, 3, 3)]
    weights = [torch.nn.Parameter(0.3 * torch.randn(shape, generator=generator)) for shape in shapes]
    for weight in weights:
        weight.grad = 0.01 * torch.randn(weight.shape, generator=generator)
    gradients = [w.grad.clone() for w in weights if w.grad is not None]
    before = [g.clone() for g in gradients]
    clip_adaptively_(gradients, [w.detach() for w in weights], factor=0.05)
    adaptive_clip_grad(weights, clip_factor=0.05)  # type: ignore[no-untyped-call]
    for ours, theirs in zip(gradients, weights, strict=True):
        torch.testing.assert_close(ours, theirs.grad)
    assert any(not torch.equal(a, b) for a, b in zip(before, gradients, strict=True))


class Ratios(pl.Callback):
    """Recorder of the largest ratio of a unit's gradient to its weights, for each parameter and step."""

    def __init__(self) -> None:
        self.largest: dict[str, float] = {}

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        for name, p in pl_module.model.named_parameters():
            ratio = float((unit_norms(p.grad) / unit_norms(p.detach()).clamp(min=1e-3)).max())
            self.largest[name] = max(ratio, self.largest.get(name, 0.0))


def test_all_parameters_except_the_head_are_clipped_before_every_step(tmp_path: Path) -> None:
    options: dict[str, Any] = {"enable_checkpointing": False, "limit_val_batches": 0, "max_epochs": 1}
    free, clipped = Ratios(), Ratios()
    trainer(tmp_path, [free], **options).fit(task(), datamodule=digits())
    trainer(tmp_path, [AdaptiveClipping(factor=1e-3), clipped], **options).fit(task(), datamodule=digits())
    body = [name for name in free.largest if not name.startswith("head")]
    assert max(free.largest[name] for name in body) > 0.01
    assert max(clipped.largest[name] for name in body) <= 1.001e-3
    assert max(value for name, value in clipped.largest.items() if name.startswith("head")) > 2e-3


def test_invalid_exclude_raises(tmp_path: Path) -> None:
    for exclude, message in (
        ("haed", 'the pattern "haed" matches no parameter'),
        ("*", "expected a parameter to clip"),
    ):
        made = trainer(tmp_path, [AdaptiveClipping(exclude=exclude)], enable_checkpointing=False)
        with pytest.raises(UserError, match=f"AdaptiveClipping.exclude: .*{message}"):
            made.fit(task(), datamodule=digits())
