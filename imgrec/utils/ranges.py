"""Argument ranges: annotated types such as ``PositiveInt``, their check and their description."""

from __future__ import annotations

import functools
import inspect
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, ParamSpec, TypeVar, get_args, get_origin

from annotated_types import BaseMetadata, Ge, Gt, Le, Lt, MultipleOf, Predicate

from imgrec.errors import UserError

P = ParamSpec("P")
R = TypeVar("R")

Finite = Predicate(math.isfinite)
"""The constraint that a number is neither infinite nor NaN."""

PositiveInt = Annotated[int, Gt(0)]
NonNegativeInt = Annotated[int, Ge(0)]
FiniteFloat = Annotated[float, Finite]
PositiveFloat = Annotated[float, Gt(0), Finite]
NonNegativeFloat = Annotated[float, Ge(0), Finite]
ClosedUnitInterval = Annotated[float, Ge(0), Le(1)]
OpenUnitInterval = Annotated[float, Gt(0), Lt(1)]
LeftOpenUnitInterval = Annotated[float, Gt(0), Le(1)]
RightOpenUnitInterval = Annotated[float, Ge(0), Lt(1)]

_SIGNS: tuple[tuple[type[Any], str, str], ...] = ((Gt, "gt", ">"), (Ge, "ge", ">="), (Lt, "lt", "<"), (Le, "le", "<="))


def check_ranges(function: Callable[P, R]) -> Callable[P, R]:
    """Return ``function`` with a check of its arguments against the ranges in their annotations.

    Use it on constructors and functions that a user calls directly. The registry checks the same annotations in a
    config before anything is built.

    Raises:
        UserError: If an argument is outside the range of its annotation.

    Example:
        >>> @check_ranges
        ... def smooth(label_smoothing: ClosedUnitInterval = 0.1) -> float:
        ...     return label_smoothing
        >>> smooth(2.0)
        Traceback (most recent call last):
        imgrec.errors.UserError: label_smoothing: expected float in [0, 1], got 2.0.
    """
    signature = inspect.signature(function)
    ranges: dict[str, Any] | None = None

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        nonlocal ranges
        if ranges is None:
            ranges = _ranges(function)
        try:
            given = signature.bind(*args, **kwargs).arguments
        except TypeError:
            return function(*args, **kwargs)  # raises the same error with the name of the function
        for name, hint in ranges.items():
            if name in given and not is_in_range(given[name], hint):
                raise UserError(f"{name}: expected {describe_type(hint)}, got {given[name]!r}.")
        return function(*args, **kwargs)

    return checked


def is_in_range(value: Any, hint: Any) -> bool:
    """Return True if ``value`` and its elements meet the constraints of the annotation ``hint``.

    Only constraints are checked: a value of another type than the annotation has is accepted.

    Example:
        >>> is_in_range(0, PositiveInt), is_in_range([0.5, 1.5], list[ClosedUnitInterval])
        (False, False)
    """
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return is_in_range(value, parts[0]) and is_within(value, parts[1:])
    if origin in (typing.Union, types.UnionType):
        fitting = [each for each in parts if _is_of_type(value, each)]
        return not fitting or any(is_in_range(value, each) for each in fitting)
    if isinstance(value, Mapping) and len(parts) == 2:
        return all(is_in_range(each, parts[1]) for each in value.values())
    if isinstance(value, list | tuple | set | frozenset) and parts and origin is not typing.Literal:
        if origin is tuple and Ellipsis not in parts:
            return len(parts) != len(value) or all(map(is_in_range, value, parts))
        return all(is_in_range(each, parts[0]) for each in value)
    return True


def is_within(value: Any, constraints: Iterable[Any]) -> bool:
    """Return True if ``value`` is no number, or a number that meets every one of the constraints."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return True
    return all(_satisfies(value, each) for each in constraints)


def describe_type(hint: Any) -> str:
    """Return an annotation as text, with its range.

    Example:
        >>> describe_type(PositiveInt | None), describe_type(list[OpenUnitInterval])
        ('int > 0 | None', 'list[float in (0, 1)]')
    """
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return " ".join(filter(None, [describe_type(parts[0]), _describe(parts[1:])]))
    if origin in (typing.Union, types.UnionType):
        return " | ".join(map(describe_type, parts))
    if parts and origin is not typing.Literal and origin is not None and _has_range(hint):
        texts = ["..." if each is Ellipsis else describe_type(each) for each in parts]
        return f"{describe_type(origin)}[{', '.join(texts)}]"
    if hint is types.NoneType:
        return "None"
    return hint.__name__ if isinstance(hint, type) and not parts else str(hint)


def without_ranges(hint: Any) -> Any:
    """Return an annotation without its constraints, for libraries that do not read them."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return without_ranges(parts[0])
    if origin in (typing.Union, types.UnionType):
        return functools.reduce(lambda a, b: a | b, map(without_ranges, parts))
    if _has_range(hint):
        return origin[tuple(each if each is Ellipsis else without_ranges(each) for each in parts)]
    return hint


def _ranges(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the annotations of ``function`` that have a range. Annotations that cannot be resolved are skipped."""
    found = {}
    for name, annotation in function.__annotations__.items():
        holder = types.SimpleNamespace(__annotations__={name: annotation})
        try:
            hint = typing.get_type_hints(holder, function.__globals__, include_extras=True)[name]
        except (NameError, TypeError):
            continue
        if name != "return" and _has_range(hint):
            found[name] = hint
    return found


def _has_range(hint: Any) -> bool:
    if get_origin(hint) is Annotated:
        return any(isinstance(each, BaseMetadata) for each in hint.__metadata__)
    return get_origin(hint) is not typing.Literal and any(map(_has_range, get_args(hint)))


def _is_of_type(value: Any, hint: Any) -> bool:
    if get_origin(hint) is Annotated:
        return _is_of_type(value, get_args(hint)[0])
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    kind = get_origin(hint) or hint
    return isinstance(kind, type) and isinstance(value, kind)


def _satisfies(value: float, constraint: Any) -> bool:
    if isinstance(constraint, Gt):
        return bool(value > constraint.gt)  # type: ignore[operator]
    if isinstance(constraint, Ge):
        return bool(value >= constraint.ge)  # type: ignore[operator]
    if isinstance(constraint, Lt):
        return bool(value < constraint.lt)  # type: ignore[operator]
    if isinstance(constraint, Le):
        return bool(value <= constraint.le)  # type: ignore[operator]
    if isinstance(constraint, MultipleOf):
        return bool(value % constraint.multiple_of == 0)  # type: ignore[operator]
    return bool(constraint.func(value)) if isinstance(constraint, Predicate) else True


def _describe(constraints: Iterable[Any]) -> str:
    bounds: dict[type[Any], Any] = {
        kind: getattr(each, name) for each in constraints for kind, name, _ in _SIGNS if isinstance(each, kind)
    }
    low = next((f"{'(' if kind is Gt else '['}{bounds[kind]}" for kind in (Gt, Ge) if kind in bounds), None)
    high = next((f"{bounds[kind]}{')' if kind is Lt else ']'}" for kind in (Lt, Le) if kind in bounds), None)
    multiples = "".join(f"a multiple of {each.multiple_of}" for each in constraints if isinstance(each, MultipleOf))
    if low is not None and high is not None:
        return f"in {low}, {high}"
    ends = " ".join(f"{sign} {bounds[kind]}" for kind, _, sign in _SIGNS if kind in bounds)
    return " and ".join(filter(None, [ends, multiples]))
