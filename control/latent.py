"""TD-MPC2's world model: latent dynamics, rewards, ends, values and a policy, without a decoder.

Hansen et al. 2024, "TD-MPC2: scalable, robust world models for continuous control",
arXiv:2310.16828, section 3.1:

    z = h(s, e)          encoder            z' = d(z, a, e)      latent dynamics
    r = R(z, a, e)       reward             q = Q_i(z, a, e)     values, an ensemble
    a ~ p(z, e)          policy prior       c = c(z', e)         has the episode ended?

e is the embedding of a task, absent where there is one task only. `LatentWorld` holds the networks,
whose actions lie in [-1, 1]^A (one-hot where actions are discrete); `LatentModel` is what planners
see of them: one task, actions in the environment's own units.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from control.networks import MLP, HeadLayer, Heads, TwoHot, apply_heads
from mbrl_core import draws
from mbrl_core.policies import numbered, sampled
from mbrl_core.types import Box, Discrete, Model, Proposal, Rng, Transition

LOG_STD = (-10.0, 2.0)  # bounds of the policy's log standard deviation before squashing
ENDED = 0.5  # probability of an end from which on an episode counts as ended


@dataclass(frozen=True, kw_only=True)
class Size:
    """Widths and numbers of the networks; `SIZES` has the published ones."""

    encoder: int = 256  # units of the encoder's hidden layers
    encoder_layers: int = 1  # how many of these there are
    hidden: int = 256  # units of all other hidden layers, two in each network
    latent: int = 128  # length of a latent state
    simnorm: int = 8  # entries of each simplex
    heads: int = 5  # value networks
    task: int = 96  # length of a task's embedding, where there are several tasks
    bins: int = 101  # of rewards and values
    low: float = -10.0  # the first bin, in symlog space
    high: float = 10.0  # the last bin

    def __post_init__(self) -> None:
        if self.latent % self.simnorm:
            raise ValueError(
                f"the latent length ({self.latent}) must be a multiple of simnorm ({self.simnorm})"
            )


SIZES = {
    "small": Size(encoder=128, hidden=128, latent=64),
    "cpu": Size(),
    "1M": Size(encoder=256, hidden=384, latent=128, heads=2),
    "5M": Size(encoder=256, hidden=512, latent=512),
    "19M": Size(encoder=1024, encoder_layers=2, hidden=1024, latent=768),
    "48M": Size(encoder=1792, encoder_layers=3, hidden=1792, latent=768),
    "317M": Size(encoder=4096, encoder_layers=4, hidden=4096, latent=1376, heads=8),
}
"""By millions of parameters, as published; "small" and "cpu" are for training on a few cores."""


def size_named(size: str | Size) -> Size:
    """A size given as itself or by its name in `SIZES`. Raises ValueError for another name."""
    if isinstance(size, Size):
        return size
    if size not in SIZES:
        raise ValueError(f"unknown size {size!r}: the sizes are {', '.join(SIZES)}")
    return SIZES[size]


class LatentWorld(nn.Module):
    """The networks. `task` [R] int64 says which task a row is of; None where there is only one."""

    action_mask: Tensor

    def __init__(
        self,
        observation_dim: int,
        action_dim: int,
        *,
        size: Size | None = None,
        discrete: bool = False,
        episodic: bool = False,
        task_actions: Sequence[int] = (),
        rng: torch.Generator | None = None,
    ) -> None:
        """Make the networks with random weights.

        Args:
            observation_dim: D, the longest of several tasks.
            action_dim: A, the longest of several tasks; n where actions are discrete.
            size: widths.
            discrete: whether actions are whole numbers below `action_dim`.
            episodic: whether ends of episodes are predicted.
            task_actions: the action dimensions of each of several tasks; none for a single task.
            rng: where the weights are drawn from.
        """
        super().__init__()
        self.size = size = size or Size()
        self.observation_dim, self.action_dim = observation_dim, action_dim
        self.discrete, self.episodic = discrete, episodic
        self.task_actions = tuple(task_actions)
        context = size.task if task_actions else 0
        state, hidden = size.latent + context, [size.hidden] * 2
        step = state + action_dim
        self.encoder = MLP(
            observation_dim + context,
            [size.encoder] * size.encoder_layers,
            size.latent,
            simnorm=size.simnorm,
            rng=rng,
        )
        self.dynamics = MLP(step, hidden, size.latent, simnorm=size.simnorm, rng=rng)
        self.reward = MLP(step, hidden, size.bins, zero=True, rng=rng)
        self.ended = MLP(state, hidden, 1, rng=rng) if episodic else None
        self.policy = MLP(state, hidden, action_dim * (1 if discrete else 2), rng=rng)
        self.values = Heads(size.heads, step, hidden, size.bins, rng=rng)
        self.code = TwoHot(size.bins, size.low, size.high)
        self.tasks = None
        if task_actions:
            embedding = torch.rand(len(task_actions), size.task, generator=rng) * 0.04 - 0.02
            self.tasks = nn.Parameter(embedding)
            counts = torch.tensor(task_actions).unsqueeze(1)
            mask = (torch.arange(action_dim) < counts).float()
            self.register_buffer("action_mask", mask, persistent=False)

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.policy[-1].bias.device  # type: ignore[return-value]

    def with_task(self, x: Tensor, task: Tensor | None) -> Tensor:
        """Rows [R, n], followed by the embedding of their tasks where there are several."""
        return x if self.tasks is None else torch.cat([x, self.tasks[task]], -1)

    def encode(self, obs: Tensor, task: Tensor | None = None) -> Tensor:
        """Observations [R, D] to latent states [R, L]."""
        return self.encoder(self.with_task(obs, task))

    def next(self, z: Tensor, action: Tensor, task: Tensor | None = None) -> Tensor:
        """The latent states [R, L] that follow."""
        return self.dynamics(torch.cat([self.with_task(z, task), action], -1))

    def actor(self, z: Tensor, task: Tensor | None = None) -> Gaussian | Categorical:
        """The policy's distributions in R latent states."""
        out = self.policy(self.with_task(z, task))
        if self.discrete:
            return Categorical(out)
        mean, raw = out.chunk(2, -1)
        low, high = LOG_STD
        log_std = low + (high - low) / 2 * (1 + torch.tanh(raw))
        return Gaussian(mean, log_std, None if self.tasks is None else self.action_mask[task])

    def q(
        self,
        heads: Sequence[HeadLayer],
        z: Tensor,
        action: Tensor,
        task: Tensor | None = None,
        dropped: Tensor | None = None,
    ) -> Tensor:
        """Logits [E, R, bins] of the action values that `heads` predict."""
        return apply_heads(heads, torch.cat([self.with_task(z, task), action], -1), dropped)

    def expected(
        self,
        heads: Sequence[HeadLayer],
        z: Tensor,
        noise: Tensor | None,
        task: Tensor | None = None,
        *,
        least: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """What acting by the policy from R latent states is worth, [R], and its entropy [R].

        A Gaussian policy is followed at the action that `noise` [R, A] leads to, or at its mean
        where None; a categorical one in expectation over its actions. The heads' values are
        averaged, or the `least` is taken.
        """
        actor = self.actor(z, task)
        action, weights = actor.actions(noise)
        choices = len(action) // len(z)
        if choices > 1:
            z = z.repeat_interleave(choices, 0)
            task = None if task is None else task.repeat_interleave(choices, 0)
        worth = self.code.decode(self.q(heads, z, action, task))
        worth = worth.amin(0) if least else worth.mean(0)
        return (worth.view(-1, choices) * weights).sum(1), actor.entropy()

    def policy_noise(self, rows: int, rng: Rng) -> Tensor | None:
        """What one draw of the policy in `rows` states is made of; nothing where it is discrete."""
        return None if self.discrete else draws.normal(rng, rows, self.action_dim)

    def arguments(self) -> dict[str, Any]:
        """What `LatentWorld(**arguments)` makes another of, `size` as a dict."""
        return {
            "observation_dim": self.observation_dim,
            "action_dim": self.action_dim,
            "size": asdict(self.size),
            "discrete": self.discrete,
            "episodic": self.episodic,
            "task_actions": list(self.task_actions),
        }


@dataclass(frozen=True)
class Gaussian:
    """A normal distribution squashed by tanh into [-1, 1]^A."""

    mean: Tensor  # [R, A] before squashing
    log_std: Tensor  # [R, A]
    mask: Tensor | None = None  # [R, A] 1 where the row's task has that action, 0 elsewhere

    def actions(self, noise: Tensor | None) -> tuple[Tensor, Tensor]:
        """The squashed actions [R, A] of standard normal `noise`, the mean's where None; all with
        weight 1 [R, 1]."""
        raw = self.mean if noise is None else torch.addcmul(self.mean, noise, self.log_std.exp())
        action = torch.tanh(raw)
        if self.mask is not None:
            action = action * self.mask
        return action, action.new_ones(len(action), 1)

    def entropy(self) -> Tensor:
        """The entropy [R] before squashing, times the number of action dimensions: as published."""
        each = self.log_std + 0.5 * math.log(2 * math.pi * math.e)
        if self.mask is None:
            return each.sum(-1) * each.shape[-1]
        return (each * self.mask).sum(-1) * self.mask.sum(-1)


@dataclass(frozen=True)
class Categorical:
    """A distribution over n actions."""

    logits: Tensor  # [R, n]

    def actions(self, noise: Tensor | None) -> tuple[Tensor, Tensor]:
        """Every action of every row, one-hot [R * n, n], and their probabilities [R, n]."""
        rows, number = self.logits.shape
        every = torch.eye(number, dtype=self.logits.dtype, device=self.logits.device)
        return every.repeat(rows, 1), self.logits.softmax(-1)

    def entropy(self) -> Tensor:
        """The entropy [R] in nats."""
        log_p = self.logits.log_softmax(-1)
        return -(log_p.exp() * log_p).sum(-1)


class LatentModel:
    """A latent world as planners see it: `Dynamics`, `Policy` and `Value` of one task.

    States are latent states [R, L]. A row's value is that of the policy's mean action (the
    expectation over a categorical policy), averaged over the heads chosen, and only these are
    evaluated. An episode ends where the network that predicts ends says it is likelier than not.

    The published code differs in two points. It judges the end of a plan by two heads drawn anew at
    every call, hence in every iteration of MPPI, and at an action sampled from the policy. Here the
    heads are those given, for a whole plan (`TDMPC2Learner.act` draws two for each, saved models
    take the first two), and the action is the policy's mean: a plan's value is a function of its
    actions alone, and iterations compare like with like.
    """

    def __init__(
        self,
        world: LatentWorld,
        space: Box | Discrete,
        *,
        discount: float,
        heads: Tensor | Sequence[int] | None = None,
        task: int | None = None,
        half_precision: bool = False,
    ) -> None:
        """Look at `world`, without copying it.

        Args:
            world: the networks.
            space: the task's actions.
            discount: gamma, per decision.
            heads: the value networks to ask; all of them where None.
            task: which of the world's tasks, where it knows several.
            half_precision: whether the networks compute in bfloat16.
        """
        self.world, self.space, self.discount = world, space, discount
        self.task = None if task is None else torch.tensor([task], device=world.device)
        self.heads = world.values.layers(heads)
        self.terminates = world.episodic
        self.half_precision = half_precision
        self._action_dim = 0 if isinstance(space, Discrete) else len(space.low)
        self._scale: tuple[Tensor, Tensor] | None = None
        if isinstance(space, Box):
            centre, half = unit_of(space)
            if bool((centre != 0).any() | (half != 1).any()):
                self._scale = centre.to(world.device), half.to(world.device)

    def model(self) -> Model:
        """All four parts."""
        return Model(self, self, self, self.space)

    @torch.no_grad()
    def root(self, obs: Tensor) -> Tensor:
        """Observations [B, D] as latent states; those of a task with fewer are filled with 0."""
        obs = obs.to(self.world.device, torch.float32)
        padded = F.pad(obs, (0, self.world.observation_dim - obs.shape[-1]))
        return self.world.encode(padded, self._tasks(len(obs)))

    def step(self, state: Tensor, action: Tensor, *, rng: Rng) -> Transition:
        """See `Dynamics`."""
        world = self.world
        with self._precision(state):
            task = self._tasks(len(state))
            both = torch.cat([world.with_task(state, task), self._unit(action)], -1)
            after = world.dynamics(both).to(state.dtype)
            reward = world.code.decode(world.reward(both))
            discount = torch.full_like(reward, self.discount)
            if world.ended is not None:
                logit = world.ended(world.with_task(after, task)).squeeze(-1)
                discount = discount.masked_fill(logit.float().sigmoid() > ENDED, 0.0)
        return Transition(after, reward, discount)

    def propose(self, state: Tensor, num: int, *, rng: Rng) -> Proposal:
        """See `Policy`: draws, equally likely because they are draws; or numbered actions by their
        probability."""
        with self._precision(state):
            actor = self.world.actor(state, self._tasks(len(state)))
        if isinstance(actor, Categorical):
            return numbered(actor.logits.float(), num, rng=rng)
        total, width = actor.mean.shape
        noise = draws.normal(rng, total, num, self._action_dim).to(state)
        noise = F.pad(noise, (0, width - self._action_dim)).flatten(0, 1)
        many = Gaussian(
            actor.mean.float().repeat_interleave(num, 0),
            actor.log_std.float().repeat_interleave(num, 0),
        )
        actions = self._own(many.actions(noise)[0])
        if num == 1:
            return Proposal(actions, state.new_zeros(total, 1))
        return sampled(actions.view(total, num, -1), state.new_zeros(total, num))

    def value(self, state: Tensor) -> Tensor:
        """See `Value`."""
        with self._precision(state):
            return self.world.expected(self.heads, state, None, self._tasks(len(state)))[0]

    def mode(self, state: Tensor) -> Tensor:
        """See `Policy`."""
        with self._precision(state):
            actor = self.world.actor(state, self._tasks(len(state)))
        if isinstance(actor, Categorical):
            return actor.logits.argmax(-1)
        return self._own(actor.actions(None)[0])

    def _tasks(self, rows: int) -> Tensor | None:
        return None if self.task is None else self.task.expand(rows)

    def _precision(self, state: Tensor) -> AbstractContextManager[object]:
        if not self.half_precision:
            return nullcontext()
        return torch.autocast(state.device.type, torch.bfloat16)

    def _unit(self, action: Tensor) -> Tensor:
        """Actions of the environment as the networks take them, [R, A]."""
        if isinstance(self.space, Discrete):
            return F.one_hot(action, self.space.n).to(self.world.code.centres)
        if self._scale is not None:
            centre, half = self._scale
            action = (action - centre) / half
        return F.pad(action, (0, self.world.action_dim - action.shape[-1]))

    def _own(self, unit: Tensor) -> Tensor:
        """The inverse of `_unit`, for continuous actions."""
        action = unit[..., : self._action_dim]
        if self._scale is None:
            return action
        centre, half = self._scale
        return torch.addcmul(centre, action, half)


def unit_of(space: Box) -> tuple[Tensor, Tensor]:
    """Centre and half the range [A] of actions; 0 and 1 where a bound is infinite."""
    finite = space.low.isfinite() & space.high.isfinite()
    centre = torch.where(finite, (space.low + space.high) / 2, 0.0)
    half = torch.where(finite, (space.high - space.low) / 2, 1.0)
    return centre, half


def discount_for(frames_per_episode: int | None, action_repeat: int) -> float:
    """The discount per decision that suits the length of an episode, as published.

    An episode of T decisions gets (T/5 - 1) / (T/5), between 0.95 and 0.995; one without end 0.995.
    """
    if frames_per_episode is None:
        return 0.995
    fifth = max(frames_per_episode / action_repeat / 5, 1.0)
    return min(max((fifth - 1) / fifth, 0.95), 0.995)
