"""The layers of an ONNX file under the names that they have in PyTorch."""

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

    A convolution or a linear layer gets the name of its module, ``layer1.0.conv1``; what has no weights gets that of
    the module around it and its own kind, ``layer1.0/Add``. The names are unique; OpenVINO takes them over.

    Args:
        model: an ``onnx.ModelProto`` as ``torch.onnx.export`` makes it.
    """
    constants = {each.name for each in model.graph.initializer}
    taken: set[str] = set()
    for node in model.graph.node:
        wanted = _wanted(node, constants)
        name, count = wanted, 1
        while name in taken:
            count += 1
            name = f"{wanted}#{count}"
        taken.add(name)
        node.name = name


def layers_of(model: Any) -> dict[str, list[str]]:
    """The layers that have weights, in the order of the network, each with the nodes up to the next one.

    Every node is in one of them, so that all layers together are the whole network.

    Raises:
        UserError: there is none.
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
    """The layers that some patterns mean, in the order of the network.

    Args:
        patterns: as in a shell: ``layer4.*``. ``head.linear`` and ``backbone.*`` are names of a classifier's parts.
        layers: the names of all layers.
        where: the place, for messages.

    Raises:
        UserError: a pattern matches no layer.

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
    """``(C, H, W)`` of the network's one input; 0 for a length that is not fixed."""
    _, *shape = model.graph.input[0].type.tensor_type.shape.dim
    channels, height, width = (int(length.dim_value) for length in shape)
    return channels, height, width


def _is_weighted(node: Any, constants: set[str]) -> bool:
    return node.op_type in _WEIGHTED and len(node.input) > 1 and node.input[1] in constants


def _wanted(node: Any, constants: set[str]) -> str:
    scopes: list[str] = next((ast.literal_eval(each.value) for each in node.metadata_props if each.key == _SCOPES), [])
    module: str = scopes[-2] if len(scopes) > 1 else ""
    if not _is_weighted(node, constants):
        return f"{module}/{node.op_type}"
    weight, dot, last = node.input[1].rpartition(".")
    # a batch norm that was folded into a convolution has left its own scope on it
    return weight if dot and last == "weight" else module or node.op_type
