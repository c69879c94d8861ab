"""What dynamics around other dynamics pass on."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from mbrl_core.types import Dynamics, Model, Rows
from mbrl_core.world import step_rows


class Wrapper:
    """Dynamics around `dynamics`: the optional members are those of the latter, where it has them.

    A subclass says in `around` how it is made anew.
    """

    dynamics: Dynamics

    def around(self, dynamics: Dynamics) -> Dynamics:
        """The same wrapper around other dynamics."""
        raise TypeError(f"{type(self).__name__} does not say how it wraps other dynamics")

    @property
    def terminates(self) -> bool:
        """See `Dynamics`."""
        return getattr(self.dynamics, "terminates", True)

    @property
    def disagreement(self) -> Callable[[Rows, Rows], Tensor]:
        """See `Unsure`; AttributeError where the dynamics inside say nothing of it."""
        return self.dynamics.disagreement  # type: ignore[attr-defined]

    def step_rows(self, state: Rows) -> Tensor | int:
        """See `Dynamics`."""
        return step_rows(Model(self.dynamics), state)

    def dealt(self, size: int) -> Dynamics:
        """See `Particles`."""
        deal = getattr(self.dynamics, "dealt", None)
        return self.around(self.dynamics if deal is None else deal(size))
