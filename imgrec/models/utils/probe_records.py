"""Records of a run of a network: outputs of layers and residual branches."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class LayerOutput:
    """Output of a layer.

    Attributes:
        shape: Shape for a batch of two images.
        channels: Dimension of the channels, or ``None`` if it is unknown. It is 1 for a map ``(N, C, H, W)``.
        calls: Number of calls of the layer.
    """

    shape: tuple[int, ...]
    channels: int | None
    calls: int

    @property
    def is_map(self) -> bool:
        """True if this is one map per channel, ``(N, C, H, W)``."""
        return len(self.shape) == 4 and self.channels == 1


@dataclass(frozen=True)
class ResidualBranch:
    """Residual branch: layers whose output is added to their input, or to a projection of it.

    Attributes:
        end: Name of the layer whose output is added, or ``None`` if it is not the output of a single layer.
        slot: Name of the identity that passes the added tensor on, or ``None``.
        last: Name of the last layer with weights. With zero weights the branch is zero and receives a gradient.
            ``None`` if a function such as ReLU follows.
    """

    end: str | None
    slot: str | None
    last: str | None


@dataclass
class ModelProbe:
    """Result of a run of a network.

    Attributes:
        outputs: Output of each layer in its last call, without layers that return no tensor.
        branches: Residual branches, in the order of the network.
        functions: Functions of :data:`ACTIVATIONS` with the innermost module that called them, in order.
    """

    outputs: dict[str, LayerOutput] = field(default_factory=dict)
    branches: list[ResidualBranch] = field(default_factory=list)
    functions: list[tuple[str, str]] = field(default_factory=list)
