from __future__ import annotations

import copy

import timm
import torch
from pytorch_lightning.plugins.layer_sync import TorchSyncBatchNorm
from torch import nn

from imgrec.tasks.strategies import SyncBatchNorm


def network() -> nn.Module:
    """Return a model with activations inside its normalizations and non-trivial batch statistics."""
    torch.manual_seed(0)
    made: nn.Module = timm.create_model("efficientnet_lite0", num_classes=3)
    with torch.no_grad():
        for _ in range(2):
            made(torch.rand(4, 3, 32, 32))
    return made.eval()


def test_a_synchronized_model_has_the_same_weights_and_outputs() -> None:
    model, images = network(), torch.rand(2, 3, 32, 32)
    kinds = {name: type(module) for name, module in model.named_modules()}
    state = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        before = model(images)
        lost = TorchSyncBatchNorm().apply(copy.deepcopy(model))(images)
        layers = SyncBatchNorm()
        synchronised = layers.apply(model)
        assert torch.equal(synchronised(images), before)
    assert not torch.allclose(lost, before)  # torch's own conversion drops the activations
    found = [module for module in synchronised.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert found
    assert all(isinstance(module, nn.SyncBatchNorm) for module in found)
    assert list(synchronised.state_dict()) == list(state)

    # what was learnt meanwhile, buffers that are other tensors included, is in the network's own layers afterwards
    with torch.no_grad():
        for module in found:
            assert module.running_mean is not None
            module.running_mean = module.running_mean + 1
            module.weight.mul_(2)
    learnt = copy.deepcopy(synchronised.state_dict())
    reverted = layers.revert(synchronised)
    assert {name: type(module) for name, module in reverted.named_modules()} == kinds
    assert all(torch.equal(value, learnt[name]) for name, value in reverted.state_dict().items())
    assert not any(torch.equal(state[name], learnt[name]) for name in state if name.endswith("running_mean"))
