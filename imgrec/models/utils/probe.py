"""Run of a network on meta tensors: output of each layer, and ends of residual branches."""

from __future__ import annotations

import torch
from torch import nn

from imgrec.errors import UserError
from imgrec.models.backbones.arguments import reason
from imgrec.models.utils.forward import run_on_meta
from imgrec.models.utils.probe_recorder import ACTIVATIONS, Recorder
from imgrec.models.utils.probe_records import LayerOutput, ModelProbe, ResidualBranch

__all__ = ["ACTIVATIONS", "LayerOutput", "ModelProbe", "ResidualBranch", "probe"]


def probe(network: nn.Module, in_channels: int, image_size: int) -> ModelProbe:
    """Run a network on two images and record its layers, without changing it.

    The run is in evaluation mode and on meta tensors, without arithmetic and random numbers. A residual branch is
    recognized by its addition: of two results of one tensor, it is the one that passed more layers with weights.

    Args:
        network: Network for normalized images.
        in_channels: Number of channels of the images.
        image_size: Height and width of the images, in pixels.

    Raises:
        UserError: If the network does not accept such images.

    >>> from imgrec.models.backbones.cifar_resnet import BasicBlock
    >>> probe(BasicBlock(8, 8, 1), 8, 4).branches
    [ResidualBranch(end='bn2', slot=None, last='bn2')]
    """
    try:
        return run_on_meta(network, lambda device: _record(network, in_channels, image_size, device))
    except UserError:
        raise
    except Exception as error:  # networks raise different errors for invalid images
        raise UserError(
            f"the network does not accept images of {image_size} x {image_size} pixels with {in_channels} channel(s): "
            f"{reason(error)}"
        ) from error


def _record(network: nn.Module, in_channels: int, image_size: int, device: torch.device) -> ModelProbe:
    tensors = {n: t.detach().to(device) for n, t in (*network.named_parameters(), *network.named_buffers())}
    images = torch.zeros(2, in_channels, image_size, image_size, device=device)
    recorder = Recorder(network, images)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]), recorder:
            torch.func.functional_call(network, tensors, (images,))
    finally:
        for handle in recorder.handles:
            handle.remove()
    return recorder.result()
