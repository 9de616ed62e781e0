"""Selection of the parameters that count as weights, for penalties and weight decay."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn
from torch.nn import Parameter

from imgrec.errors import UserError
from imgrec.models.utils.patterns import Scope, scope_names
from imgrec.types import StepOutput

_NORMS = (
    nn.modules.batchnorm._NormBase,  # batch and instance normalization, including the lazy and synchronized classes
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
)


def norm_and_bias_names(model: nn.Module) -> set[str]:
    """Return the names of the parameters that are not weights: biases, and all parameters of normalization layers.

    As in the parameter groups of timm, every parameter with fewer than two dimensions is included. So is every
    parameter named ``bias``, with any shape.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    >>> sorted(norm_and_bias_names(net))
    ['0.bias', '1.bias', '1.weight']
    """
    return {
        f"{prefix}.{name}" if prefix else name
        for prefix, module in model.named_modules()
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.ndim < 2 or name == "bias" or isinstance(module, _NORMS)
    }


def weight_parameters(model: nn.Module, norm_and_bias: bool = False, scope: Scope = None) -> list[Parameter]:
    """Return the trainable weights of a model, to which a weight penalty or weight decay applies.

    Args:
        model: Module.
        norm_and_bias: ``True`` includes normalization layers and biases, that is every trainable parameter. Defaults to
            ``False``.
        scope: Restriction to these names or patterns, see :func:`imgrec.models.utils.patterns.scope_names`.

    Raises:
        UserError: If a pattern of ``scope`` matches no parameter.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    >>> len(weight_parameters(net)), len(weight_parameters(net, norm_and_bias=True))
    (1, 4)
    """
    exempt = set() if norm_and_bias else norm_and_bias_names(model)
    return [p for name, p in scoped(model, scope).items() if p.requires_grad and name not in exempt]


def scoped(model: nn.Module, scope: Scope) -> dict[str, Parameter]:
    """Return the parameters that match ``scope``, by name. See :func:`imgrec.models.utils.patterns.scope_names`."""
    named = dict(model.named_parameters())
    return named if scope is None else {name: named[name] for name in scope_names(model, scope)}


class WeightPenalty(nn.Module, ABC):
    """Base class of penalties on the weights.

    Args:
        norm_and_bias: ``True`` also penalizes normalization layers and biases. Defaults to ``False``.
        scope: Names or patterns of parameters, or of modules that contain them: ``head``, ``layer4``,
            ``*.conv1.weight``. Defaults to every weight.
    """

    def __init__(self, norm_and_bias: bool = False, scope: Scope = None) -> None:
        super().__init__()
        self.norm_and_bias = norm_and_bias
        self.scope = scope

    @abstractmethod
    def penalty(self, weights: list[Parameter]) -> Tensor:
        """Return the penalty on one weight or more, a scalar."""

    def check_model(self, model: nn.Module) -> None:
        """Raise an error if the network has no such weights, before it is trained."""
        if weight_parameters(model, self.norm_and_bias, self.scope):
            return
        if not any(p.requires_grad for p in model.parameters()):
            raise UserError("there is no trainable weight to penalize. Is the whole model frozen?")
        if self.scope is not None and any(p.requires_grad for p in scoped(model, self.scope).values()):
            raise UserError(
                f"scope: {self.scope!r} matches only biases and normalization layers. `norm_and_bias: true` penalizes "
                "them."
            )

    def forward(self, output: StepOutput, model: nn.Module) -> Tensor:
        """Return the penalty, a scalar. It is zero while all parameters in the scope are frozen."""
        weights = weight_parameters(model, self.norm_and_bias, self.scope)
        if not weights:
            self.check_model(model)
            return output.logits.new_zeros(())
        return self.penalty(weights)
