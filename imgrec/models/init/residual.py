"""Residual branches that begin as nothing, so that a deep network begins as a shallow one."""

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
    """Residual branches that give zero at first: the last normalization of each, or its last layer, begins at zero.

    The branches are found by trying the network out, whatever it is: by its additions. What is set is the last layer
    with weights, scale and shift or weight and bias; the network is then what its shortcuts make of an image.

    Args:
        scope: names of those last layers or of modules around them, or patterns; see
            :func:`imgrec.models.utils.patterns.scope_names`. ``None`` means all branches.
        in_channels: of the images that the network is tried out with.
        image_size: their side, in pixels.

    Raises:
        UserError: there is no residual branch in the scope; or one ends in a ReLU or the like, which would give its
            weights no gradient at zero.

    Source: Goyal et al., Accurate, large minibatch SGD: training ImageNet in 1 hour, 2017, arXiv:1706.02677,
    section 5.1.

    Example::

        init: [{name: he_normal, mode: fan_out}, zero_residual]
    """

    def __init__(self, scope: Scope = None, in_channels: int = 3, image_size: int = 32) -> None:
        super().__init__(scope)
        self.images = in_channels, image_size

    @torch.no_grad()
    def __call__(self, model: nn.Module) -> list[str]:
        """Set the last weights of each branch to zero."""
        network, prefix = (model.backbone.network, SHORT) if isinstance(model, Classifier) else (model, "")
        branches = probe(network, *self.images).branches
        if not branches:
            raise UserError("the network has no residual branch.")
        known = {prefix + (branch.last or branch.end or ""): branch for branch in branches}
        for pattern in [self.scope] if isinstance(self.scope, str) else self.scope or []:
            if not any(in_scope(name, pattern) for name in known):
                ends = listed([name.removeprefix(SHORT) for name in known])
                raise UserError(f'scope: the pattern "{pattern}" matches no end of a residual branch; those: {ends}.')
        done = []
        for name, branch in known.items():
            if not in_scope(name, self.scope):
                continue
            if branch.last is None:
                raise UserError(
                    f"the residual branch that {branch.end or 'code'} ends cannot begin at zero: something like a ReLU "
                    "stands behind its last weights, which would get no gradient."
                )
            layer = network.get_submodule(branch.last)
            if parametrize.is_parametrized(layer):
                raise UserError(f"{branch.last} cannot begin at zero: its weight is computed from others.")
            for key, parameter in layer.named_parameters(recurse=False):
                parameter.zero_()
                done.append(f"{prefix}{branch.last}.{key}")
        return done
