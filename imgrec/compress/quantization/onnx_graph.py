"""Names of the nodes and layers of an ONNX file, equal to the module names in PyTorch."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any

from imgrec.errors import UserError, suggestion

_SCOPES = "pkg.torch.onnx.name_scopes"
_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def name_nodes(model: Any) -> None:
    """Name every node after the layer of the PyTorch network that it came from, in place.

    A convolution or a linear layer has the name of its module, for example ``layer1.0.conv1``. A node without weights
    has the name of the enclosing module and its operator type, ``layer1.0/Add``. The names are unique. OpenVINO keeps
    them.

    Args:
        model: An ``onnx.ModelProto`` of ``torch.onnx.export``.
    """
    constants = {each.name for each in model.graph.initializer}
    used: set[str] = set()
    for node in model.graph.node:
        preferred = _preferred_name(node, constants)
        name, count = preferred, 1
        while name in used:
            count += 1
            name = f"{preferred}#{count}"
        used.add(name)
        node.name = name


def layers_of(model: Any) -> dict[str, list[str]]:
    """Return the layers with weights in the order of the network, each with all nodes before the next layer.

    Each node belongs to exactly one layer.

    Raises:
        UserError: If there is no layer with weights.
    """
    constants = {each.name for each in model.graph.initializer}
    found: dict[str, list[str]] = {}
    before: list[str] = []
    for node in model.graph.node:
        if _is_weighted(node, constants):
            found[node.name] = [*before, node.name]
            before = []
        elif found:
            next(reversed(found.values())).append(node.name)
        else:
            before.append(node.name)
    if not found:
        raise UserError("the network has no convolution and no linear layer that could be quantized")
    return found


def match_layers(patterns: Iterable[str], layers: Sequence[str], where: str = "exclude") -> list[str]:
    """Return the layers that match any of some patterns, in the order of the network.

    Args:
        patterns: Shell-style patterns of module names, for example ``layer4.*``, ``backbone.*`` or ``head.linear``.
        layers: Names of all layers.
        where: Key, for messages.

    Raises:
        UserError: If a pattern matches no layer.

    Example:
        >>> match_layers(["head*"], ["backbone.network.conv1", "head.linear"])
        ['head.linear']
    """
    given = tuple(patterns)
    for pattern in given:
        if not any(fnmatchcase(name, pattern) for name in layers):
            raise UserError(
                f'{where}: "{pattern}" matches no layer.{suggestion(pattern, layers)} The layers are '
                f"{', '.join(layers[:6])}{f' and {len(layers) - 6} more' if len(layers) > 6 else ''}."
            )
    return [name for name in layers if any(fnmatchcase(name, pattern) for pattern in given)]


def image_shape(model: Any) -> tuple[int, int, int]:
    """Return the input shape ``(C, H, W)`` of a network, with 0 for a length that is not fixed."""
    _, *shape = model.graph.input[0].type.tensor_type.shape.dim
    channels, height, width = (int(length.dim_value) for length in shape)
    return channels, height, width


def _is_weighted(node: Any, constants: set[str]) -> bool:
    return node.op_type in _WEIGHTED and len(node.input) > 1 and node.input[1] in constants


def _preferred_name(node: Any, constants: set[str]) -> str:
    scopes: list[str] = next((ast.literal_eval(each.value) for each in node.metadata_props if each.key == _SCOPES), [])
    module: str = scopes[-2] if len(scopes) > 1 else ""
    if not _is_weighted(node, constants):
        return f"{module}/{node.op_type}"
    weight, dot, last = node.input[1].rpartition(".")
    # a convolution with a folded batch norm has the scope of the batch norm
    return weight if dot and last == "weight" else module or node.op_type
