"""Which parameters count as weights, for penalties and for weight decay alike."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn
from torch.nn import Parameter

from imgrec.errors import UserError
from imgrec.models.utils.patterns import Scope, scope_names
from imgrec.types import StepOutput

_NORMS = (
    nn.modules.batchnorm._NormBase,  # batch and instance normalization, lazy and synchronized ones too
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
)


def norm_and_bias_names(model: nn.Module) -> set[str]:
    """The names of the parameters that are no weights: biases, scales, and whatever a normalization layer holds.

    A parameter with fewer than two dimensions is one of them, as in timm's parameter groups, and so is one called
    ``bias`` whatever its shape.

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
    """The trainable weights of a model: what a penalty on weights, or weight decay, is about.

    Args:
        model: any module.
        norm_and_bias: normalization layers and biases too, so every trainable parameter.
        scope: only of these; see :func:`imgrec.models.utils.patterns.scope_names`.

    Raises:
        UserError: a pattern of ``scope`` matches nothing.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    >>> len(weight_parameters(net)), len(weight_parameters(net, norm_and_bias=True))
    (1, 4)
    """
    exempt = set() if norm_and_bias else norm_and_bias_names(model)
    return [p for name, p in scoped(model, scope).items() if p.requires_grad and name not in exempt]


def scoped(model: nn.Module, scope: Scope) -> dict[str, Parameter]:
    """The parameters that ``scope`` means, by name; see :func:`imgrec.models.utils.patterns.scope_names`."""
    named = dict(model.named_parameters())
    return named if scope is None else {name: named[name] for name in scope_names(model, scope)}


class WeightPenalty(nn.Module, ABC):
    """What penalties on the weights have in common: which weights they are about.

    Args:
        norm_and_bias: penalize normalization layers and biases too.
        scope: names or patterns of parameters, or of modules that hold them: ``head``, ``layer4``, ``*.conv1.weight``;
            by default every weight.
    """

    def __init__(self, norm_and_bias: bool = False, scope: Scope = None) -> None:
        super().__init__()
        self.norm_and_bias = norm_and_bias
        self.scope = scope

    @abstractmethod
    def penalty(self, weights: list[Parameter]) -> Tensor:
        """The penalty on these weights, one at least, a scalar."""

    def check_model(self, model: nn.Module) -> None:
        """Refuse a network that has no such weights, before it is trained."""
        if weight_parameters(model, self.norm_and_bias, self.scope):
            return
        if not any(p.requires_grad for p in model.parameters()):
            raise UserError("there is no trainable weight to penalize: is the whole model frozen?")
        if self.scope is not None and any(p.requires_grad for p in scoped(model, self.scope).values()):
            raise UserError(
                f"the scope {self.scope!r} holds biases and normalization layers alone: `norm_and_bias: true` would "
                "penalize them."
            )

    def forward(self, output: StepOutput, model: nn.Module) -> Tensor:
        """The penalty, a scalar; zero while all that the scope means is frozen."""
        weights = weight_parameters(model, self.norm_and_bias, self.scope)
        if not weights:
            self.check_model(model)
            return output.logits.new_zeros(())
        return self.penalty(weights)
