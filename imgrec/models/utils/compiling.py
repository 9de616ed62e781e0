"""torch.compile of a network, in place: nothing else changes its name."""

from __future__ import annotations

from typing import Any

from torch import nn

from imgrec.errors import UserError, suggestion
from imgrec.models.classifier import Classifier
from imgrec.trust import refuse_unless_trusted

Compile = bool | dict[str, Any]
"""``true``, or the arguments of ``torch.compile``."""

_ACCEPTED = ("backend", "dynamic", "fullgraph", "mode", "options")
_BACKENDS = ("aot_eager", "cudagraphs", "eager", "inductor")
"""torch's own backends, which received data may name."""
_MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")


def check_compile(value: Compile, where: str = "model.compile") -> None:
    """Raise what ``torch.compile`` would raise at the first batch, as far as it can be told.

    Raises:
        UserError: an argument or a mode that is unknown.
    """
    if isinstance(value, bool):
        return
    for key in ("backend", "options"):
        if value.get(key) not in (None, *_BACKENDS):
            refuse_unless_trusted(f"{where}.{key}: got {value[key]!r}", "torch.compile may run the program in it")
    for key in value:
        if key not in _ACCEPTED:
            raise UserError(f'{where}: torch.compile has no argument "{key}".{suggestion(key, _ACCEPTED)}')
    mode = value.get("mode", "default")
    if mode not in _MODES:
        raise UserError(f"{where}.mode: accepted are {', '.join(_MODES)}, got {mode!r}.{suggestion(str(mode), _MODES)}")
    if "mode" in value and "options" in value:
        raise UserError(f"{where}: torch.compile takes `mode` or `options`, not both.")


def compile_network(model: nn.Module, value: Compile) -> None:
    """Have ``model`` compiled at its first batch; of a :class:`Classifier` what stands before its pooling.

    It stays the module that it is: parameters keep their names, a checkpoint fits with and without compilation, and a
    copy, a resumed run or an export is as it would be without.

    >>> network = nn.Linear(2, 2)
    >>> compile_network(network, {"mode": "reduce-overhead"})
    >>> list(network.state_dict())
    ['weight', 'bias']
    """
    if value is False:
        return
    parts: list[nn.Module | None] = [model]
    if isinstance(model, Classifier):  # a network that is left at its stages is not called itself
        parts = [model.backbone.network if model.pooling is None else model.backbone, model.neck]
    for part in parts:
        if part is not None:
            part.compile(**({} if value is True else value))
