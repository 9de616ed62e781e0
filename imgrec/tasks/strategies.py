"""A network whose parameters are shared out over the processes: fully sharded data parallel training."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from pytorch_lightning.callbacks import WeightAveraging
from pytorch_lightning.strategies import ModelParallelStrategy, StrategyRegistry
from torch import nn

from imgrec.errors import UserError

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

_LISTS = (nn.Sequential, nn.ModuleList)


def blocks(model: nn.Module) -> list[nn.Module]:
    """What a network is a sequence of, inner ones first: residual blocks, transformer layers, stages.

    Those are the members of its sequences and lists that are made of several modules and have parameters.

    >>> import timm
    >>> len(blocks(timm.create_model("resnet18"))), len(blocks(timm.create_model("vit_tiny_patch16_224")))
    (8, 12)
    """
    found: dict[nn.Module, None] = {}
    for module in model.modules():
        if isinstance(module, _LISTS):
            for member in module.children():
                made_of_several = not isinstance(member, _LISTS) and any(True for _ in member.children())
                if made_of_several and any(True for _ in member.parameters()):
                    found[member] = None
    return list(found)[::-1]


def shard(model: nn.Module, mesh: DeviceMesh) -> None:
    """Share the parameters of ``model`` out over the processes of ``mesh``, in place, block by block.

    A block is put together when it is its turn, and taken apart again; gradients and the optimizer's state are shared
    out likewise. Parameters keep their names and, as tensors of the whole, their shapes: what decays, what a checkpoint
    calls them and what is exported is what it is in one process.

    Source: Zhao et al. 2023, "PyTorch FSDP: experiences on scaling fully sharded data parallel", arXiv 2304.11277.
    """
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    for block in [*blocks(model), model]:
        fully_shard(block, mesh=mesh)
    for name in ("forward_all", "forward_features"):  # the Classifier's, which go round forward()
        if hasattr(model, name):
            register_fsdp_forward_method(model, name)


class FullySharded(ModelParallelStrategy):
    """``trainer.strategy: fsdp2``: parameters, gradients and optimizer states shared out over all processes.

    Lightning's strategy for FSDP2 with all processes in one data-parallel group, and with whole checkpoints: one file,
    written by the first process, which any other strategy and `imgrec test` can load. The network is sharded by
    :func:`shard`.

    ``trainer.strategy: fsdp`` is not offered: it flattens parameters before the optimizer sees them, and no weight
    would decay, because weights can no longer be told from biases by their shape.

    Args:
        timeout: how long processes wait for one another.

    Raises:
        UserError: weights are to be averaged, which needs a second whole network.
    """

    def __init__(self, timeout: timedelta = timedelta(minutes=30)) -> None:
        super().__init__(
            data_parallel_size=1, tensor_parallel_size=1, save_distributed_checkpoint=False, timeout=timeout
        )

    def setup_environment(self) -> None:
        """Every process is in the one group."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        trainer: Any = self.lightning_module.trainer if self.lightning_module is not None else None
        if trainer is not None and any(isinstance(each, WeightAveraging) for each in trainer.callbacks):
            raise UserError(
                "trainer.strategy: fsdp2 shares the weights out, and averaging them needs all of them in each process: "
                "leave one of the two away."
            )
        super().setup_environment()


StrategyRegistry.register("fsdp2", FullySharded, description="fully sharded data parallel training (FSDP2)")
