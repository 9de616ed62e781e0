"""When channels are taken out of a network that is being trained, and how many each time."""

from __future__ import annotations

from dataclasses import dataclass

from imgrec.errors import UserError


@dataclass(frozen=True)
class Rounds:
    """So many rounds of pruning, evenly from one fraction of training to another.

    Args:
        start: the fraction of training at which the first is.
        end: the fraction at which the last is; of one round, nothing.
        rounds: how many there are.

    Raises:
        UserError: a number that cannot be.
    """

    start: float = 0.1
    end: float = 0.5
    rounds: int = 5

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise UserError(f"`rounds` is 1 or more, got {self.rounds}.")
        for name, value in {"start": self.start, "end": self.end}.items():
            if not 0 <= value < 1:
                raise UserError(f"`{name}` is a fraction of training, from 0 to below 1, got {value}.")
        if self.rounds > 1 and self.start >= self.end:
            raise UserError(
                f"`start` comes before `end` where there are several rounds, got {self.start} and {self.end}."
            )

    @property
    def last(self) -> float:
        """The fraction of training at which the last round is."""
        return self.end if self.rounds > 1 else self.start

    def at(self, steps: int) -> list[int]:
        """The optimizer steps, counted from 0, before which the rounds are, in a training of so many steps.

        Raises:
            UserError: there are fewer steps than rounds.

        >>> Rounds(0.1, 0.5, rounds=5).at(1000), Rounds(0.0, rounds=1).at(1000)
        ([100, 200, 300, 400, 500], [0])
        """
        apart = (self.last - self.start) / max(1, self.rounds - 1)
        found = [round((self.start + apart * i) * steps) for i in range(self.rounds)]
        if len(set(found)) < len(found) or found[-1] >= steps:
            raise UserError(
                f"{self.rounds} round(s) between {self.start:g} and {self.last:g} of {steps} steps leave none for "
                "training after each: fewer rounds or more steps are needed."
            )
        return found

    def part(self, number: int, target: float) -> float:
        """What is to be left after a round, counted from 1, of what there was at first: every round takes as much.

        >>> [round(Rounds(rounds=5).part(i, 0.5), 2) for i in range(1, 6)]
        [0.9, 0.8, 0.7, 0.6, 0.5]
        """
        return 1 - (1 - target) * number / self.rounds
