from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from imgrec import ClassificationTask
from imgrec.errors import UserError
from imgrec.types import DataFacts

FACTS = DataFacts(("a", "b", "c"), (5, 5, 5), image_size=16, channels=1).to_dict()
TINY: dict[str, Any] = {"name": "resnet18", "layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8], "stem_width": 8}


def built(compile: bool | dict[str, Any]) -> ClassificationTask:
    task = ClassificationTask(backbone=TINY, normalize="half", facts=FACTS, compile=compile)
    task.configure_model()
    return task


def test_a_compiled_network_keeps_its_names_and_gives_the_same_logits_and_gradients() -> None:
    """With a backend that runs what was traced as it is, so that no compiler is needed."""
    seen = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        seen.append(graph)
        return graph.forward

    torch._dynamo.reset()
    plain, compiled = built(False), built({"backend": backend})
    assert list(plain.state_dict()) == list(compiled.state_dict())
    plain.load_state_dict(compiled.state_dict())
    images = torch.randint(0, 256, (4, 1, 16, 16), dtype=torch.uint8)
    logits = [task.model.forward_all(images)[0] for task in (plain, compiled)]
    assert seen
    torch.testing.assert_close(logits[1], logits[0])
    for each in logits:
        each.square().mean().backward()  # type: ignore[no-untyped-call]
    for (name, ours), (_, theirs) in zip(plain.named_parameters(), compiled.named_parameters(), strict=True):
        assert ours.grad is not None, name
        torch.testing.assert_close(theirs.grad, ours.grad, msg=name)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"modus": "default"}, 'no argument "modus". Did you mean "mode"'),
        ({"mode": "max-autotun"}, 'model.compile.mode: accepted are .* Did you mean "max-autotune"'),
        ({"mode": "default", "options": {}}, "`mode` or `options`, not both"),
    ],
)
def test_what_torch_would_refuse_at_the_first_batch_is_refused_at_once(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ClassificationTask(compile=given)


@pytest.mark.slow
def test_a_compiled_training_leaves_a_checkpoint_like_any_other(cli: Any, tiny: Path, tmp_path: Path) -> None:
    torch._dynamo.reset()
    words = ["--trainer.max_epochs", "1", "--trainer.precision", "32-true"]
    for runs, compiled in (("plain", "false"), ("compiled", "{backend: aot_eager}")):
        done = cli("fit", "--config", tiny, "--runs", runs, "--model.compile", compiled, *words)
        assert done.returncode == 0, done.stderr
    plain, compiled_run = (next((tmp_path / runs / "tiny").iterdir()) for runs in ("plain", "compiled"))
    states = [torch.load(run / "checkpoints/best.ckpt", weights_only=True) for run in (plain, compiled_run)]
    for name, value in states[0]["state_dict"].items():
        torch.testing.assert_close(states[1]["state_dict"][name], value, rtol=1e-3, atol=1e-4)
    task = ClassificationTask.load_from_checkpoint(compiled_run / "checkpoints/best.ckpt", weights_only=True)
    assert task.compiling == {"backend": "aot_eager"}
