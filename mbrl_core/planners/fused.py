"""An iteration of a sampling planner as one function compiled by `torch.compile`.

What is compiled is the planner's own `advance` and the model's own `step` and `value`; nothing is
written twice. Only the world is another: `Traced` asks no tensor for its numbers, so that the
code has no branches, and keeps no books. Random numbers are drawn before, the ledger is kept after.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from itertools import count
from types import FunctionType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from mbrl_core import rows
from mbrl_core.planners.series import hold_constants
from mbrl_core.planners.trajectory import Search
from mbrl_core.rollouts import Futures
from mbrl_core.types import Rng, Rollout, Rows, Transition
from mbrl_core.world import Bounds, World, checked_step, step_rows, value_rows

if TYPE_CHECKING:
    from mbrl_core.planners.sampling import Noise, Population


NO_DRAWS: Rng = torch.Generator()
"""What a model is given in compiled code, which cannot draw from a generator."""


class Evaluated(NamedTuple):
    """What `Futures` are, in few tensors: a compiled function pays for each that it returns."""

    actions: Tensor  # [H, B*N, ...]
    rewards: Tensor  # [B, N, H]
    discounts: Tensor  # [B, N, H]
    final: Rows  # B*N rows
    ended: Tensor  # [B, N] bool
    returns: Tensor  # [B, N]

    def rollout(self) -> Rollout:
        """The record of these futures."""
        steps = list(self.actions.unbind())
        return Rollout(steps, self.rewards, self.discounts, self.final, self.returns, self.ended)


Advance: TypeAlias = Callable[
    [World, Bounds, Rows, Search, "Noise"], tuple[Search, Tensor, Futures | Evaluated]
]


class Traced(World):
    """A world in code that is compiled. Rows that have ended are stepped and what they give is
    put aside."""

    def __init__(self, world: World) -> None:
        self.planner = world.planner
        self.model = world.model
        self.roots = world.roots
        self.dtype = world.dtype
        self.device = world.device
        self.terminates = world.terminates
        self.unlimited = True

    def copies(self, state: Rows, samples: int) -> Rows:
        """See `World`."""
        return rows.repeat(state, samples)

    def step(self, state: Rows, action: Rows, *, alive: Tensor | None = None) -> Transition:
        """See `World`."""
        moved = checked_step(self.model, state, action, NO_DRAWS, self.dtype)
        if alive is None:
            return moved
        return Transition(
            rows.where(alive, moved.state, state),
            torch.where(alive, moved.reward, 0.0),
            torch.where(alive, moved.discount, 0.0),
        )

    def value_of_living(self, state: Rows, alive: Tensor) -> Tensor | None:
        """See `World`."""
        if self.model.value is None:
            return None
        value = self.model.value.value(state)
        return torch.where(alive, value, 0.0) if self.terminates else value


def fused(planner: Population, world: World) -> Advance:
    """`planner.advance`, compiled for the model of `world`; ValueError where that cannot be.

    A model that differs from one before in its numbers alone is not compiled anew.
    """
    traced = Traced(world)
    kind: tuple[Any, ...] = type(world.model.dynamics), type(world.model.value), world.device.type

    def advance(
        world: World, bounds: Bounds, state: Rows, search: Search, noise: Noise
    ) -> tuple[Search, Tensor, Evaluated]:
        if search.best is search.mean:  # the first iteration has the layout of all others, too
            search = _apart(search)
        try:
            iterate = _compiled(planner, *kind)
            search, sequences, found = iterate(traced, bounds, state, search, noise)
        except torch._dynamo.exc.FailOnRecompileLimitHit:  # many models: forget those before
            _compiled.cache_clear()
            return advance(world, bounds, state, search, noise)
        except torch._inductor.exc.InductorError as error:
            raise ValueError(
                f"{world.planner}(compiled=True) needs a working compiler, for a CPU a C++ one: "
                f"plan with compiled=False ({_first_line(error)})"
            ) from error
        except torch._dynamo.exc.TorchDynamoException as error:
            raise ValueError(
                f"{world.planner}(compiled=True) needs a model that draws no random numbers and "
                "that torch.compile takes whole; this one is not such a model, plan with "
                f"compiled=False ({_first_line(error)})"
            ) from error
        _book(world, state, found)
        return search, sequences, found

    return advance


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def _apart(search: Search) -> Search:
    """The search in tensors of its own, which is what an iteration gives."""
    own = rows.take(search.best_final, torch.arange(len(search.mean), device=search.mean.device))
    mean, std, best = (x.clone(memory_format=torch.contiguous_format) for x in search[:3])
    return search._replace(mean=mean, std=std, best=best, best_final=own)


_NUMBER = count()


@lru_cache(maxsize=16)
def _compiled(planner: Population, dynamics: type, value: type, device: str) -> Callable[..., Any]:
    """`advance` for one planner and models of one kind; torch.compile sees to what differs in
    their shapes."""

    def iterate(
        world: Traced, bounds: Bounds, state: Rows, search: Search, noise: Noise
    ) -> tuple[Search, Tensor, Evaluated]:
        search, sequences, futures = planner.advance(world, bounds, state, search, noise)
        shape = futures.returns.shape
        found = Evaluated(
            actions=torch.stack(futures.actions),
            rewards=torch.stack(futures.rewards, -1).view(*shape, -1),
            discounts=torch.stack(futures.discounts, -1).view(*shape, -1),
            final=futures.final,
            ended=~futures.alive.view(shape),
            returns=futures.returns,
        )
        return search, sequences, found

    hold_constants()
    # torch.compile keeps so many compilations of one code object; each planner gets its own.
    name = f"iterate_{next(_NUMBER)}"
    code = iterate.__code__.replace(co_name=name)
    own = FunctionType(code, iterate.__globals__, name, None, iterate.__closure__)
    # On a CPU half of a small plan would be calls from the generated Python.
    options: Any = {"cpp_wrapper": True} if device == "cpu" else None
    return torch.compile(own, fullgraph=True, options=options)


def _book(world: World, state: Rows, found: Evaluated) -> None:
    """The model's calls and rows of an iteration."""
    samples, horizon = found.rewards.shape[1:]
    valued = world.model.value is not None
    steps = torch.as_tensor(step_rows(world.model, state)) * (samples * horizon)
    values = torch.as_tensor(value_rows(world.model, state)) * samples * valued
    world.spend(horizon + valued, steps=steps.cpu(), values=values.cpu())
