"""Tracing of a classifier to a graph of operations that accesses its parameters by name."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from imgrec.errors import UserError
from imgrec.models import Classifier
from imgrec.models.classifier import extract_features
from imgrec.models.utils.forward import preserve_modes

aten: Any = torch.ops.aten

_DROPOUTS = (aten.dropout.default, aten.feature_dropout.default, aten.alpha_dropout.default)


class Program:
    """An executable graph, which reads parameters, buffers and modules by name from the module that it is called with.

    It has no state, so that copies of the module share it.
    """

    def __init__(self, graph: fx.Graph) -> None:
        self.graph = graph
        code = graph.python_code("self")
        scope: dict[str, Any] = dict(code.globals)
        exec(code.src, scope)  # as GraphModule of torch does
        self._run: Callable[..., tuple[Tensor, ...]] = scope["forward"]

    def __call__(self, owner: nn.Module, images: Tensor) -> tuple[Tensor, ...]:
        """Return all outputs in order."""
        return self._run(owner, images)

    def __deepcopy__(self, memo: dict[int, Any]) -> Program:
        return self


class _Trunk(nn.Module):
    """Part of a classifier from normalized images to logits, pooled features and auxiliary logits."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.backbone = classifier.backbone
        self.neck = classifier.neck
        self.pooling = classifier.pooling
        self.head = classifier.head

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return all outputs of a classifier in training mode."""
        features = extract_features(images, self.backbone, self.neck, self.pooling)
        return self.head(features.pooled), features.pooled, *features.auxiliary


def trace(classifier: Classifier, channels: int, image_size: int) -> tuple[fx.Graph, dict[str, Tensor]]:
    """Trace a classifier after its normalization, in training mode and for batches of any size.

    The random state is not changed. The graph has no in-place operations. Dropout reads the attribute ``training`` of
    the module, and batch normalization reads its attribute ``norms_learn``.

    Returns:
        The graph, and the constant tensors that it accesses as ``constants.<name>``.

    Raises:
        UserError: If the control flow depends on the values of the images, or if a layer other than dropout draws
            random numbers. The message names the layer.
    """
    trunk = _Trunk(classifier)
    device = classifier.mean.device
    example = torch.zeros(2, channels, image_size, image_size, device=device)  # a batch of 1 would become a fixed size
    drawing = torch.random.fork_rng([device] if device.type == "cuda" else [])
    try:
        with preserve_modes(trunk), warnings.catch_warnings(), drawing:
            warnings.simplefilter("ignore")
            sizes = ({0: torch.export.Dim("batch", min=1)},)
            exported = torch.export.export(trunk.train(), (example,), dynamic_shapes=sizes, strict=False)
        module: Any = exported.module(check_guards=False)
    except Exception as error:  # torch.export raises exceptions of many classes
        line = next((each.strip() for each in str(error).splitlines() if each.strip()), type(error).__name__)
        raise UserError(f"the network cannot be traced: {line[:300]}") from error
    graph = fx.Graph()
    given: Any = graph.graph_copy(module.graph, {})
    graph.output(tuple(given) if isinstance(given, Sequence) else (given,))
    constants = _constants(graph, module, trunk)
    _without_in_place(graph)
    _with_modes(graph)
    graph.eliminate_dead_code()
    graph.lint()
    return graph, constants


def layer_of_node(node: fx.Node) -> str:
    """Return the name of the layer of a node, or an empty string if it belongs to no layer."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return str(stack[-1][0]) if stack else ""


def is_buffer_update(node: fx.Node) -> bool:
    """Return True if a node increments the batch counter of a batch normalization."""
    first = node.args[0] if node.args else None
    return node.target is aten.add_.Tensor and isinstance(first, fx.Node) and first.op == "get_attr"


def _constants(graph: fx.Graph, module: nn.Module, trunk: nn.Module) -> dict[str, Tensor]:
    own = {*dict(trunk.named_parameters(remove_duplicate=False)), *dict(trunk.named_buffers(remove_duplicate=False))}
    found: dict[str, Tensor] = {}
    for node in graph.nodes:
        if node.op == "get_attr" and node.target not in own:
            name = str(node.target).replace(".", "_")
            found[name] = operator.attrgetter(node.target)(module).detach()
            node.target = f"constants.{name}"
    return found


def _without_in_place(graph: fx.Graph) -> None:
    """Replace in-place operations by operations that return a new tensor, and redirect later users to it."""
    order = {node: i for i, node in enumerate(graph.nodes)}
    for node in list(graph.nodes):
        plain = _plain(node.target) if node.op == "call_function" else None
        if plain is None or is_buffer_update(node):
            continue
        changed = node.args[0]
        node.target = plain
        for user in list(changed.users):
            if order[user] > order[node]:
                user.replace_input_with(changed, node)


def _plain(target: Any) -> Any:
    """Return the out-of-place variant of an in-place operation, or ``None`` for other operations."""
    if not isinstance(target, torch._ops.OpOverload) or not target._schema.is_mutable:
        return None
    space, _, name = target._schema.name.partition("::")
    packet = getattr(getattr(torch.ops, space), name.removesuffix("_"), None) if name.endswith("_") else None
    return getattr(packet, target._overloadname, None)


def _with_modes(graph: fx.Graph) -> None:
    modes: dict[str, fx.Node] = {}

    def read_attribute(name: str) -> fx.Node:
        if name not in modes:
            with graph.inserting_before(next(iter(graph.nodes))):
                modes[name] = graph.create_node("get_attr", name, name=name)
        return modes[name]

    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        if node.target in _DROPOUTS:
            if node.args[1] == 0:
                node.replace_all_uses_with(node.args[0])
                graph.erase_node(node)
            else:
                node.args = (*node.args[:2], read_attribute("training"))
        elif node.target is aten.batch_norm.default:
            if node.args[3] is not None:  # with running statistics
                node.args = (*node.args[:5], read_attribute("norms_learn"), *node.args[6:])
        elif is_buffer_update(node):
            node.args = (node.args[0], read_attribute("norms_learn"))
        elif _draws(node):
            raise UserError(
                f"{layer_of_node(node) or 'the network'} draws random numbers ({_operator_name(node)}), which a traced "
                "network would also draw in evaluation. Set drop_path_rate or a similar argument to 0."
            )


def _draws(node: fx.Node) -> bool:
    target: Any = node.target
    if target is aten.scaled_dot_product_attention.default:
        given = node.args[4] if len(node.args) > 4 else node.kwargs.get("dropout_p", 0.0)
        return bool(given != 0.0)
    return torch.Tag.nondeterministic_seeded in getattr(target, "tags", ())


def _operator_name(node: fx.Node) -> str:
    target: Any = node.target
    return str(getattr(target, "_schema", target).name).partition("::")[2]
