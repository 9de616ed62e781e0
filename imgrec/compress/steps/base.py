"""Base class and registry of the steps of a compression plan."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from imgrec.registry import Registry


@dataclass(frozen=True)
class CompressionStep:
    """CompressionStep of a compression plan, with plain data as arguments."""

    name: ClassVar[str]
    trains: ClassVar[bool] = False
    """True if the step trains weights."""

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
