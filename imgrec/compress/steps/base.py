"""Base class and registry of the steps of a compression plan."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar, get_type_hints

from imgrec.errors import UserError
from imgrec.registry import Registry
from imgrec.utils.ranges import describe_type, is_in_range


@dataclass(frozen=True)
class CompressionStep:
    """Base class of the steps of a compression plan, with plain data as arguments.

    Raises:
        UserError: If an argument is outside the range of its annotation.
    """

    name: ClassVar[str]
    trains: ClassVar[bool] = False
    """True if the step trains weights."""

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self), include_extras=True).items():
            value = getattr(self, name)
            if not is_in_range(value, hint):
                raise UserError(f"{name}: expected {describe_type(hint)}, got {value!r}.")

    @property
    def label(self) -> str:
        """Short name of the step in the name of a variant."""
        raise NotImplementedError

    @property
    def description(self) -> str:
        """Description of the step in a line of a plan."""
        raise NotImplementedError

    def to_spec(self) -> dict[str, Any]:
        """Return the spec of the step: its name and all arguments."""
        return {"name": self.name, **asdict(self)}


STEPS: Registry[CompressionStep] = Registry("step", "steps", specific=("importance", "scope"))
