from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from imgrec import ClassificationTask
from imgrec.errors import UserError
from imgrec.models import Classifier, build_classifier, set_channels_last
from imgrec.types import DataFacts
from tests.models.small_models import GRAY_FACTS, RESNET

FACTS = DataFacts(("a", "b", "c"), (1, 1, 1), image_size=32)
BACKBONE: dict[str, object] = {"name": "resnet18", "layers": [1, 1, 1, 1], "channels": [8, 16, 16, 16], "stem_width": 8}


def small_classifier() -> Classifier:
    torch.manual_seed(0)
    return build_classifier(BACKBONE, "linear", "imagenet", FACTS)


def memory_formats(model: nn.Module) -> dict[str, bool]:
    """Record for the inputs and outputs of convolutions and normalizations if they are in channels-last format."""
    found: dict[str, bool] = {}

    def make_hook(name: str) -> object:
        def hook(module: nn.Module, inputs: tuple[object, ...], output: object) -> None:
            for i, tensor in enumerate((*inputs, output)):
                if isinstance(tensor, Tensor) and tensor.dim() == 4 and tensor.shape[-1] > 1:
                    found[f"{name}.{i}"] = tensor.is_contiguous(memory_format=torch.channels_last)

        return hook

    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
            module.register_forward_hook(make_hook(name))  # type: ignore[arg-type]
    return found


@pytest.mark.parametrize("images", [torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8), torch.rand(4, 3, 32, 32)])
def test_channels_last_reaches_every_convolution(images: Tensor) -> None:
    model, other = small_classifier(), small_classifier()
    set_channels_last(other)
    seen = memory_formats(other)
    expected, given = model(images), other(images)
    assert seen
    assert all(seen.values())
    torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-5)


def test_gradients_have_the_memory_format_of_their_weights() -> None:
    """Check the strides, because a fused optimizer reads both in the order of memory."""
    model, other = small_classifier(), small_classifier()
    set_channels_last(other)
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    for each in (model, other):
        torch.autograd.backward(nn.functional.cross_entropy(each(images), torch.tensor([0, 1, 2, 0])))
    for (name, changed), plain in zip(other.named_parameters(), model.parameters(), strict=True):
        assert changed.grad is not None
        assert changed.grad.stride() == changed.stride() or 1 in changed.shape, name
        torch.testing.assert_close(changed.grad, plain.grad, rtol=1e-3, atol=1e-5)


def test_state_dict_is_independent_of_memory_format() -> None:
    model, other = small_classifier(), small_classifier()
    set_channels_last(other)
    changed, plain = other.state_dict(), model.state_dict()
    assert list(changed) == list(plain)
    assert all(torch.equal(changed[name], plain[name]) for name in plain)
    for value in model.parameters():
        value.data.add_(1)
    other.load_state_dict(model.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(other.parameters(), model.parameters(), strict=True))
    first = next(module for module in other.modules() if isinstance(module, nn.Conv2d))
    assert first.weight.is_contiguous(memory_format=torch.channels_last)


def test_channels_last_can_be_disabled() -> None:
    model = small_classifier()
    set_channels_last(model)
    set_channels_last(model, False)
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    assert torch.equal(model(images), small_classifier()(images))
    assert all(value.is_contiguous() for value in model.parameters())
    assert not any(memory_formats(model).values())


def compiled_task(compile: bool | dict[str, Any]) -> ClassificationTask:
    task = ClassificationTask(backbone=RESNET, normalize="half", facts=GRAY_FACTS.to_dict(), compile=compile)
    task.configure_model()
    return task


def test_compiled_network_keeps_names_logits_and_gradients() -> None:
    """Use a backend that runs the traced graph, so that no compiler is needed."""
    seen = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        seen.append(graph)
        return graph.forward

    torch._dynamo.reset()
    plain, compiled = compiled_task(False), compiled_task({"backend": backend})
    assert list(plain.state_dict()) == list(compiled.state_dict())
    plain.load_state_dict(compiled.state_dict())
    images = torch.randint(0, 256, (4, 1, 16, 16), dtype=torch.uint8)
    logits = [task.model.forward_all(images)[0] for task in (plain, compiled)]
    assert seen
    torch.testing.assert_close(logits[1], logits[0])
    for each in logits:
        each.square().mean().backward()  # type: ignore[no-untyped-call]
    for (name, expected), (_, found) in zip(plain.named_parameters(), compiled.named_parameters(), strict=True):
        assert expected.grad is not None, name
        torch.testing.assert_close(found.grad, expected.grad, msg=name)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"modus": "default"}, 'no argument "modus". Did you mean "mode"'),
        ({"mode": "max-autotun"}, 'model.compile.mode: expected one of .* Did you mean "max-autotune"'),
        ({"mode": "default", "options": {}}, "expected `mode` or `options`, got both"),
    ],
)
def test_invalid_compile_arguments_raise(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ClassificationTask(compile=given)


@pytest.mark.slow
def test_checkpoint_is_independent_of_compilation(cli: Any, tiny: Path, tmp_path: Path) -> None:
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
