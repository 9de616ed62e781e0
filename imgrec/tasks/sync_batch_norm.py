"""Batch normalization over the batches of all processes."""

from __future__ import annotations

from pytorch_lightning.plugins.layer_sync import TorchSyncBatchNorm
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


class SyncBatchNorm(TorchSyncBatchNorm):
    """Replaces every batch normalization while a network is trained, and puts the network's own back afterwards.

    torch's conversion, which Lightning takes for ``trainer.sync_batchnorm``, makes a plain normalization of timm's
    ``BatchNormAct2d`` and so drops the activation inside: an EfficientNet would train without most of its
    nonlinearities. timm's conversion keeps it. Names and values of parameters and buffers stay.
    """

    def __init__(self) -> None:
        self._own: dict[str, _BatchNorm] = {}

    def apply(self, model: nn.Module) -> nn.Module:
        """The model with every batch normalization synchronised."""
        from timm.layers import convert_sync_batchnorm  # type: ignore[attr-defined]

        self._own = {name: module for name, module in model.named_modules() if isinstance(module, _BatchNorm)}
        converted: nn.Module = convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        return converted

    def revert(self, model: nn.Module) -> nn.Module:
        """The model with its own layers, which hold what the synchronised ones learnt."""
        for name, own in self._own.items():
            parent, _, last = name.rpartition(".")
            synchronised = model.get_submodule(name)
            own._parameters.update(synchronised._parameters)
            own._buffers.update(synchronised._buffers)  # moved to a device, they are other tensors than before
            own.train(synchronised.training)
            setattr(model.get_submodule(parent), last, own)
        self._own = {}
        return model
