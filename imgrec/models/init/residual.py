"""Zero initialization of the last layer of each residual branch."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils import parametrize

from imgrec.errors import UserError
from imgrec.models.classifier import Classifier
from imgrec.models.init.base import INITIALIZERS, Initializer
from imgrec.models.utils.layers import SHORT, listed
from imgrec.models.utils.patterns import Scope, in_scope
from imgrec.models.utils.probe import probe


@INITIALIZERS.register("zero_residual")
class ZeroResidual(Initializer):
    """Zero initialization of residual branches: the last normalization or layer of each branch starts at zero.

    The branches are found by the additions in a run of the network. Weight and bias of the last layer with weights are
    set to zero. The network then consists of its shortcuts only.

    Args:
        scope: Names or patterns of these last layers or of modules that contain them. See
            :func:`imgrec.models.utils.patterns.scope_names`. Defaults to all branches.
        in_channels: Number of channels of the images, a fact of the data.
        image_size: Height and width of the images in pixels, a fact of the data.

    Raises:
        UserError: If there is no residual branch in the scope, or if a branch ends with a function such as ReLU. Zero
            weights would then receive no gradient.

    Source: Goyal et al., Accurate, large minibatch SGD: training ImageNet in 1 hour, 2017, arXiv:1706.02677,
    section 5.1.

    Example::

        init: [{name: he_normal, mode: fan_out}, zero_residual]

    >>> from imgrec.models.backbones.cifar_resnet import BasicBlock
    >>> ZeroResidual(in_channels=8, image_size=4)(BasicBlock(8, 8, 1))
    ['bn2.weight', 'bn2.bias']
    """

    def __init__(self, scope: Scope = None, in_channels: int = 3, image_size: int = 32) -> None:
        super().__init__(scope)
        self.image_format = in_channels, image_size

    @torch.no_grad()
    def __call__(self, model: nn.Module) -> list[str]:
        """Set the last weights of each branch to zero, and return their names."""
        network, prefix = (model.backbone.network, SHORT) if isinstance(model, Classifier) else (model, "")
        branches = probe(network, *self.image_format).branches
        if not branches:
            raise UserError("the network has no residual branch.")
        known = {prefix + (branch.last or branch.end or ""): branch for branch in branches}
        for pattern in [self.scope] if isinstance(self.scope, str) else self.scope or []:
            if not any(in_scope(name, pattern) for name in known):
                ends = listed([name.removeprefix(SHORT) for name in known])
                raise UserError(
                    f'scope: the pattern "{pattern}" matches no end of a residual branch. The network has {ends}.'
                )
        initialized = []
        for name, branch in known.items():
            if not in_scope(name, self.scope):
                continue
            if branch.last is None:
                raise UserError(
                    f"the residual branch with the end {branch.end or '(a function)'} cannot start at zero. A function "
                    "such as ReLU follows its last weights, which would receive no gradient."
                )
            layer = network.get_submodule(branch.last)
            if parametrize.is_parametrized(layer):
                raise UserError(f"{branch.last} cannot start at zero, because its weight is computed from others.")
            for key, parameter in layer.named_parameters(recurse=False):
                parameter.zero_()
                initialized.append(f"{prefix}{branch.last}.{key}")
        return initialized
