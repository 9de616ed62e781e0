from __future__ import annotations

from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import timm
import torch
from pytorch_lightning.callbacks import EMAWeightAveraging
from pytorch_lightning.strategies import StrategyRegistry
from torch import Tensor, nn

from imgrec.errors import UserError
from imgrec.regularizers import RegularizerSum
from imgrec.tasks.strategies import FullySharded, find_blocks
from imgrec.types import StepOutput


@pytest.mark.parametrize(
    ("name", "kind", "count"),
    [
        ("resnet50", "Bottleneck", 16),
        ("vit_tiny_patch16_224", "Block", 12),
        ("efficientnet_lite0", "InvertedResidual", 15),
        ("convnext_atto", "ConvNeXtBlock", 12),
    ],
)
def test_the_blocks_are_those_of_the_paper_and_hold_nearly_all_parameters(name: str, kind: str, count: int) -> None:
    with torch.device("meta"):
        network = timm.create_model(name)
    found = find_blocks(network)
    assert len(found) == len(set(found))
    assert sum(type(block).__name__ == kind for block in found) == count
    # inner ones first: sharing out a block leaves alone what was shared out inside it
    for i, block in enumerate(found):
        assert not any(other is block or other in set(block.modules()) for other in found[i + 1 :])
    head = sum(p.numel() for name, p in network.named_parameters() if name.startswith(("head.", "fc.", "classifier.")))
    inside = {p for block in found for p in block.parameters()}
    assert sum(p.numel() for p in inside) > 0.5 * (sum(p.numel() for p in network.parameters()) - head)


def test_an_average_of_sharded_weights_raises() -> None:
    strategy = StrategyRegistry.get("fsdp2")
    assert isinstance(strategy, FullySharded)
    module = pl.LightningModule()
    module._trainer = SimpleNamespace(callbacks=[EMAWeightAveraging()])  # type: ignore[assignment]
    strategy._lightning_module = module
    strategy.parallel_devices = [torch.device("cpu")] * 2
    with pytest.raises(UserError, match="fsdp2 shards the weights"):
        strategy.setup_environment()


def test_a_penalty_on_sharded_weights_raises() -> None:
    class Shared(Tensor):
        def full_tensor(self) -> Tensor:
            return torch.zeros(())

    class OnWeights(nn.Module):
        def forward(self, output: StepOutput, model: nn.Module) -> Tensor:
            return torch.ones(()).as_subclass(Shared)

    output = StepOutput(torch.zeros(1), torch.zeros(1), torch.zeros(1, 2), torch.zeros(1), epoch=0)
    with pytest.raises(UserError, match="the regularizer OnWeights reads weights"):
        RegularizerSum([OnWeights()], [0.1])(output, nn.Linear(2, 2), 0.0)
