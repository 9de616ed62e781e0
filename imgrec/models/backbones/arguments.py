"""Keyword arguments of networks: their check, and messages about invalid ones."""

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
    """Raise an error if an argument is a key of ``reserved``, with the reason there.

    Raises:
        UserError: If an argument is reserved.
    """
    for key in network:
        if key in reserved:
            raise UserError(f'the backbone "{name}" has no argument "{key}": {reserved[key]}.')


def check_network_arguments(
    name: str, network: Mapping[str, Any], create: Callable[..., nn.Module], hidden: Collection[str]
) -> None:
    """Raise an error if ``create`` does not accept the arguments, without allocating parameters.

    The network is built on the meta device. If that is impossible for the network, it is built with real tensors.

    Args:
        name: Name of the backbone for messages.
        network: Keyword arguments of the network.
        create: Function that builds the network from keyword arguments.
        hidden: Arguments that are not meant for users and are not listed as accepted.

    Raises:
        UserError: If the network does not accept the arguments.
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
        except Exception:  # it cannot be built on the meta device
            plain = create()
            try:
                create(**network)
            except Exception as real:
                raise argument_error(name, network, real, plain, hidden) from real
            return
        raise argument_error(name, network, error, plain, hidden) from error


def argument_error(
    name: str, network: Mapping[str, Any], error: Exception, plain: nn.Module, hidden: Collection[str]
) -> UserError:
    """Return the error for an ``error`` of the constructor of a network. ``plain`` was built without arguments."""
    unexpected = _UNEXPECTED.search(str(error))
    if unexpected:
        key = unexpected.group(1)
        accepted = sorted(accepted_arguments(plain) - set(hidden))
        return UserError(
            f'the backbone "{name}" has no argument "{key}".{suggestion(key, [*accepted, "pretrained", "weights"])} '
            f"Accepted: pretrained, weights, {', '.join(accepted)}."
        )
    return UserError(f"{describe_backbone(name, network)} cannot be built: {reason(error)}")


def describe_backbone(name: str, network: Mapping[str, Any]) -> str:
    """Return a backbone and its arguments as text.

    >>> describe_backbone("resnet18", {"layers": [1, 1]})
    'the backbone "resnet18" with layers=[1, 1]'
    """
    arguments = ", ".join(f"{k}={v!r}" for k, v in network.items())
    return f'the backbone "{name}"' + (f" with {arguments}" if arguments else "")


def reason(error: Exception) -> str:
    """Return the first line of the message of a library, or the name of the exception if it has no message."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def accepted_arguments(network: nn.Module) -> set[str]:
    """Return the parameter names of the constructor of ``network`` and of its base classes."""
    names: set[str] = set()
    for base in type(network).__mro__:
        if base is nn.Module:
            break
        parameters = inspect.signature(base.__init__).parameters.values()  # type: ignore[misc]
        names |= {p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    return names - {"self"}
