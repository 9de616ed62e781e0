"""A network's own keyword arguments: which it takes, and what is wrong with those that it refuses."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import nn

from imgrec.errors import UserError, suggestion

_UNEXPECTED = re.compile(r"unexpected keyword argument '(\w+)'")


def refuse_reserved(name: str, network: Mapping[str, Any], reserved: Mapping[str, str]) -> None:
    """Raise :class:`UserError` for an argument that stands in ``reserved``, with the reason given there."""
    for key in network:
        if key in reserved:
            raise UserError(f'the backbone "{name}" has no argument "{key}": {reserved[key]}.')


def check_network_arguments(
    name: str, network: Mapping[str, Any], create: Callable[..., nn.Module], hidden: Collection[str]
) -> None:
    """Raise :class:`UserError` where ``create`` refuses the arguments, without allocating a parameter.

    The network is built on the meta device; one that cannot be built there at all is built for real.

    Args:
        name: the backbone's name, for messages.
        network: the keyword arguments.
        create: builds the network from keyword arguments.
        hidden: arguments that are not the user's to give, and are not listed as accepted.
    """
    if not network:
        return
    try:
        with torch.device("meta"):
            create(**network)
    except Exception as error:
        try:
            with torch.device("meta"):
                plain = create()
        except Exception:  # not buildable without data: only the real thing can judge the arguments
            plain = create()
            try:
                create(**network)
            except Exception as real:
                raise refusal(name, network, real, plain, hidden) from real
            return
        raise refusal(name, network, error, plain, hidden) from error


def refusal(
    name: str, network: Mapping[str, Any], error: Exception, plain: nn.Module, hidden: Collection[str]
) -> UserError:
    """What to tell the user of ``error``, raised by a network's constructor; ``plain`` was built without arguments."""
    unexpected = _UNEXPECTED.search(str(error))
    if unexpected:
        key = unexpected.group(1)
        accepted = sorted(accepted_arguments(plain) - set(hidden))
        return UserError(
            f'the backbone "{name}" has no argument "{key}".{suggestion(key, [*accepted, "pretrained", "weights"])} '
            f"Accepted: pretrained, weights, {', '.join(accepted)}."
        )
    return UserError(f"{described(name, network)} cannot be built: {reason(error)}")


def described(name: str, network: Mapping[str, Any]) -> str:
    """A backbone and the arguments that it was given, for messages.

    >>> described("resnet18", {"layers": [1, 1]})
    'the backbone "resnet18" with layers=[1, 1]'
    """
    given = ", ".join(f"{k}={v!r}" for k, v in network.items())
    return f'the backbone "{name}"' + (f" with {given}" if given else "")


def reason(error: Exception) -> str:
    """The first line of what a library says, or the exception's name where it says nothing."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def accepted_arguments(network: nn.Module) -> set[str]:
    """The names that the constructor of ``network`` takes, those of its base classes included."""
    names: set[str] = set()
    for base in type(network).__mro__:
        if base is nn.Module:
            break
        parameters = inspect.signature(base.__init__).parameters.values()  # type: ignore[misc]
        names |= {p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    return names - {"self"}
