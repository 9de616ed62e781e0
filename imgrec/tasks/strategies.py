"""Strategies of several processes: fully sharded data parallel training, and synchronized batch normalization."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from pytorch_lightning.callbacks import WeightAveraging
from pytorch_lightning.plugins.layer_sync import TorchSyncBatchNorm
from pytorch_lightning.strategies import ModelParallelStrategy, StrategyRegistry
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from imgrec.errors import UserError

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

_LISTS = (nn.Sequential, nn.ModuleList)


def find_blocks(model: nn.Module) -> list[nn.Module]:
    """Return the blocks of a model, inner ones first: residual blocks, transformer layers, stages.

    A block is a member of an ``nn.Sequential`` or ``nn.ModuleList`` that has submodules and parameters.

    Example:
        >>> import timm
        >>> len(find_blocks(timm.create_model("resnet18"))), len(find_blocks(timm.create_model("vit_tiny_patch16_224")))
        (8, 12)
    """
    found: dict[nn.Module, None] = {}
    for module in model.modules():
        if isinstance(module, _LISTS):
            for member in module.children():
                has_submodules = not isinstance(member, _LISTS) and any(True for _ in member.children())
                if has_submodules and any(True for _ in member.parameters()):
                    found[member] = None
    return list(found)[::-1]


def shard(model: nn.Module, mesh: DeviceMesh) -> None:
    """Distribute the parameters of ``model`` over the processes of ``mesh``, block by block and in place.

    The parameters of a block are gathered for its forward and backward pass and released afterwards. Gradients and
    optimizer states are sharded too. Names of parameters and the shapes of the whole tensors stay, so that weight
    decay, checkpoints and exports are the same as with one process.

    Source: Zhao et al. 2023, "PyTorch FSDP: experiences on scaling fully sharded data parallel", arXiv 2304.11277.
    """
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    for block in [*find_blocks(model), model]:
        fully_shard(block, mesh=mesh)
    for name in ("forward_all", "forward_features"):  # methods of the Classifier that do not call forward()
        if hasattr(model, name):
            register_fsdp_forward_method(model, name)


class FullySharded(ModelParallelStrategy):
    """Fully sharded data parallel training (FSDP2), the strategy ``trainer.strategy: fsdp2``.

    Parameters, gradients and optimizer states are sharded over all processes by :func:`shard`. All processes are in
    one data-parallel group. The first process writes whole checkpoints to one file, which any other strategy and
    `imgrec test` can load.

    ``trainer.strategy: fsdp`` is not supported. It flattens parameters before the optimizer is built, so that weights
    and biases cannot be distinguished by their shapes and nothing would have weight decay.

    Args:
        timeout: Timeout of collective operations. Defaults to 30 minutes.

    Raises:
        UserError: If weights are averaged, which requires a second whole model.
    """

    def __init__(self, timeout: timedelta = timedelta(minutes=30)) -> None:
        super().__init__(
            data_parallel_size=1, tensor_parallel_size=1, save_distributed_checkpoint=False, timeout=timeout
        )

    def setup_environment(self) -> None:
        """Set up one data-parallel group of all processes."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        trainer: Any = self.lightning_module.trainer if self.lightning_module is not None else None
        if trainer is not None and any(isinstance(each, WeightAveraging) for each in trainer.callbacks):
            raise UserError(
                "trainer.strategy: fsdp2 shards the weights, but averaging requires all weights in each process. "
                "Use strategy: ddp, or remove the callback."
            )
        super().setup_environment()


class SyncBatchNorm(TorchSyncBatchNorm):
    """Synchronized batch normalization for the duration of a training, for ``trainer.sync_batchnorm``.

    The conversion of torch, which Lightning uses by default, replaces ``BatchNormAct2d`` of timm by a plain batch
    normalization and thus removes the activation. An EfficientNet would train without most of its nonlinearities. The
    conversion of timm keeps it. Names and values of parameters and buffers stay.
    """

    def __init__(self) -> None:
        self._originals: dict[str, _BatchNorm] = {}

    def apply(self, model: nn.Module) -> nn.Module:
        """Return the model with synchronized batch normalization."""
        from timm.layers import convert_sync_batchnorm  # type: ignore[attr-defined]

        self._originals = {name: module for name, module in model.named_modules() if isinstance(module, _BatchNorm)}
        converted: nn.Module = convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        return converted

    def revert(self, model: nn.Module) -> nn.Module:
        """Return the model with its original layers, which have the trained parameters and statistics."""
        for name, original in self._originals.items():
            parent, _, last = name.rpartition(".")
            synchronized = model.get_submodule(name)
            original._parameters.update(synchronized._parameters)
            original._buffers.update(synchronized._buffers)  # a move to a device replaced these tensors
            original.train(synchronized.training)
            setattr(model.get_submodule(parent), last, original)
        self._originals = {}
        return model


StrategyRegistry.register("fsdp2", FullySharded, description="fully sharded data parallel training (FSDP2)")
