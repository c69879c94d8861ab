"""How many updates are due: one arithmetic for every agent that makes them decision by decision."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Schedule:
    """`rate` updates per decision, which may be a fraction; `decisions` were made so far.

    The first decisions told are those of the random phase. Updates are due for what comes after
    it, as in stable-baselines3 (`learning_starts`, with a `train_freq` and `gradient_steps` of 1).
    With `make_up` they are due for the random phase as well, all at its end, as in the published
    code of TD-MPC2.
    """

    rate: float
    make_up: bool = False
    decisions: int = 0

    def due(self, steps: int) -> int:
        """How many updates `steps` more decisions make due."""
        before, self.decisions = self.decisions, self.decisions + steps
        if not before and not self.make_up:
            return 0
        return int(self.rate * self.decisions) - int(self.rate * before)
