"""TD-MPC2: planning in the latent space of a world model that is learned by temporal differences.

Hansen et al. 2024, "TD-MPC2: scalable, robust world models for continuous control",
arXiv:2310.16828, sections 3.1 and 3.2. After every step in the environment, for each update:

    1  draw stretches (s_0, a_0, r_0, ..., s_H) from the replay              (learn)
    2  target q_t = r_t + gamma (1 - terminated_t) min of two of Q'(z', p(z')),
           z' = h(s_t+1), as constants                                       (targets)
    3  roll the latent state out: z_0 = h(s_0), z_t+1 = d(z_t, a_t)          (model_loss)
    4  fit h, d, R, Q to sum_t rho^t (20 |z_t+1 - h(s_t+1)|^2
           + 0.1 CE(R(z_t, a_t), r_t) + 0.1 CE(Q(z_t, a_t), q_t))            (model_loss)
    5  improve the policy p on sum_t rho^t (Q(z_t, p(z_t)) / S + entropy),
           S a running range of Q                                            (policy_loss)
    6  let the target networks Q' follow Q                                   (update)

It acts by planning over H steps with R, d and, for what comes after, Q, helped by rollouts of p
(act; `mbrl_core.TDMPC`). Here any planner may do that, episodes may end while others go on (a
network predicts ends where an environment has them), and actions may be discrete: the policy is
then categorical, targets and policy loss are its exact expectations, and tree searches can plan.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from control.agents.schedule import Schedule
from control.checkpoints import restore_generator
from control.devices import find_device
from control.envs import VectorEnv
from control.finite import Attempts, check_finite
from control.latent import LatentModel, LatentWorld, Size, discount_for, size_named, unit_of
from control.networks import dropout
from control.replay import Replay, Sequences
from control.world_model import LatentWorldModel, Task
from mbrl_core import MCTS, TDMPC, Gumbel, draws
from mbrl_core.planners.common import (
    check_counts,
    check_not_negative,
    check_positive,
    check_share,
    check_unit,
)
from mbrl_core.types import Box, Carry, Discrete, Planner

RANGE = (0.05, 0.95)  # quantiles of Q between which its scale lies
MANY_ACTIONS = 20  # dimensions from which on the published planner takes two iterations more
LOGGED = (
    "loss",
    "consistency_loss",
    "reward_loss",
    "value_loss",
    "end_loss",
    "policy_loss",
    "entropy",
    "q",
    "q_scale",
    "grad_norm",
)


@dataclass(frozen=True, kw_only=True)
class TDMPC2:
    """The hyperparameters; `start` makes the learner. Defaults are the published ones but the size.

    size: of the networks, by name or as itself, see `control.latent.SIZES`.
    horizon: H, of the stretches that are learned from and, without another planner, of the plans.
    updates_per_step: per decision; may be a fraction. Those of the random phase are made at its
        end, as published.
    batch_size: stretches per update.
    discount: gamma, per decision; by the episode's length where None, see `discount_for`.
    episodic: whether ends of episodes are predicted; where None, in all but DMControl, whose
        episodes have none.
    learning_rate, encoder_rate: of Adam, and the share of it that the encoder learns at.
    consistency, reward, value, end: weights of the parts of the loss.
    rho: weight of a step of a stretch relative to the one before.
    entropy: weight of the policy's entropy; published for continuous actions alone.
    discrete_entropy: the same for discrete ones. Much more, so that a tree search keeps seeing what
        the policy thinks little of.
    dropout: of the value networks' first layer.
    clip: the gradient's greatest norm.
    target_rate: the share by which target networks and scale follow at each update.
    exploration: while collecting, added to the actions of planners that explore in no way of their
        own: a standard deviation as a fraction of half the action range, or the chance of a random
        discrete action.
    half_precision: whether plans are computed in bfloat16.
    compiled: whether the losses, and the plans of the published planner, are compiled, which takes
        a minute or two at the first; a planner that is given has an option of its own.
    device: where to learn; "auto" takes a GPU where there is one.
    random_frames: simulator frames of random actions that come first.
    action_repeat: frames for which an action is held in DMControl, unless told else.
    """

    size: str | Size = "cpu"
    horizon: int = 3
    updates_per_step: float = 1.0
    batch_size: int = 256
    discount: float | None = None
    episodic: bool | None = None
    learning_rate: float = 3e-4
    encoder_rate: float = 0.3
    consistency: float = 20.0
    reward: float = 0.1
    value: float = 0.1
    end: float = 1.0
    rho: float = 0.5
    entropy: float = 1e-4
    discrete_entropy: float = 0.1
    dropout: float = 0.01
    clip: float = 20.0
    target_rate: float = 0.01
    exploration: float = 0.1
    half_precision: bool = False
    compiled: bool = False
    device: str = "cpu"
    random_frames: int = 5000
    action_repeat: int = 2

    def __post_init__(self) -> None:
        check_counts(self, "horizon", "batch_size", "action_repeat")
        check_counts(self, "random_frames", least=0)
        check_positive(self, "learning_rate", "encoder_rate", "target_rate", "clip", "rho")
        check_not_negative(self, "updates_per_step", "entropy", "discrete_entropy", "exploration")
        check_not_negative(self, "consistency", "reward", "value", "end")
        check_share(self, "dropout")
        if self.discount is not None:
            check_unit(self, "discount")
        size_named(self.size)

    def start(
        self, env: VectorEnv, planner: Planner | None, *, rng: torch.Generator
    ) -> TDMPC2Learner:
        """A learner that knows nothing yet; without a planner it plans as published (in discrete
        action spaces, which are not, by Gumbel MuZero's tree search)."""
        discount = self.discount
        if discount is None:
            discount = discount_for(env.frames_per_episode, env.action_repeat)
        episodic = self.episodic
        if episodic is None:
            episodic = not env.name.startswith("dmc/")
        space = env.action_space
        device = find_device(self.device)
        world = LatentWorld(
            env.observation_dim,
            space.n if isinstance(space, Discrete) else len(space.low),
            size=size_named(self.size),
            discrete=isinstance(space, Discrete),
            episodic=episodic,
            rng=rng,
        ).to(device)
        task = Task(env.name, env.action_repeat, env.observation_dim, space, discount)
        return TDMPC2Learner(self, world, task, planner or published_planner(self, space), rng)


def published_planner(recipe: TDMPC2, space: Box | Discrete) -> Planner:
    """The planner that TD-MPC2 was published with, or a tree search where actions are discrete."""
    if isinstance(space, Discrete):
        return MCTS(simulations=32, candidates=space.n, selection=Gumbel())
    more = 2 if len(space.low) >= MANY_ACTIONS else 0
    return TDMPC(horizon=recipe.horizon, iterations=6 + more, compiled=recipe.compiled)


class Batch(NamedTuple):
    """n stretches of H steps as the networks take them, time first."""

    obs: Tensor  # [H + 1, n, D]
    action: Tensor  # [H, n, A] in [-1, 1], or one-hot
    reward: Tensor  # [H, n]
    terminated: Tensor  # [H, n] 1 where the episode ended, else 0
    discount: Tensor  # [n], or [] where it is the same for all
    task: Tensor | None = None  # [n] int64


class ModelLoss(NamedTuple):
    """What the world model is fitted to, and the latent states on the way."""

    total: Tensor  # []
    consistency: Tensor
    reward: Tensor
    value: Tensor
    end: Tensor
    states: Tensor  # [H + 1, n, L], without gradient


class Updates:
    """The world model and all that one update changes; for one task or several."""

    def __init__(self, recipe: TDMPC2, world: LatentWorld, rng: torch.Generator) -> None:
        """`rng` seeds the generator that updates draw from, on the device of `world`."""
        self.recipe, self.world = recipe, world
        self.rng = draws.generator(int(draws.integers(rng, 2**62, 1)), world.device)
        self.target = copy.deepcopy(world.values).requires_grad_(False)
        self.scale = torch.ones((), device=world.device)  # S
        self._policy = list(world.policy.parameters())
        encoder, policy = (
            {id(p) for p in part.parameters()} for part in (world.encoder, world.policy)
        )
        rest = [p for p in world.parameters() if id(p) not in encoder | policy]
        self._model = [*world.encoder.parameters(), *rest]
        rate = recipe.learning_rate
        groups: list[dict[str, Any]] = [
            {"params": list(world.encoder.parameters()), "lr": rate * recipe.encoder_rate},
            {"params": rest},
        ]
        self.model_optimizer = torch.optim.Adam(groups, lr=rate, fused=True)
        self.policy_optimizer = torch.optim.Adam(self._policy, lr=rate, eps=1e-5, fused=True)
        steps = torch.arange(recipe.horizon + 1, device=world.device)
        self.weights = recipe.rho**steps  # [H + 1]
        self._model_loss: Callable[..., ModelLoss] = self.model_loss
        self._policy_loss: Callable[..., tuple[Tensor, Tensor, Tensor]] = self.policy_loss
        if recipe.compiled:
            self._model_loss = torch.compile(self.model_loss)
            self._policy_loss = torch.compile(self.policy_loss)

    def update(self, batch: Batch) -> Tensor:
        """One update of everything; the numbers named by `LOGGED`.

        Raises NotFiniteError where a loss is NaN or infinite; what it belongs to is then unchanged.
        """
        recipe, world = self.recipe, self.world
        targets, next_states = self.targets(batch)
        dropped = None
        if recipe.dropout:
            rows = batch.reward.numel()
            shape = (len(world.values), rows, world.size.hidden)
            dropped = dropout(recipe.dropout, *shape, rng=self.rng)
        loss = self._model_loss(batch, targets, next_states, dropped)
        named = {name: x for name, x in batch._asdict().items() if x is not None}
        check_finite(loss.total, named, "the world model's loss")
        norm = self._descend(self.model_optimizer, loss.total, self._model)
        if world.tasks is not None:
            with torch.no_grad():
                world.tasks.copy_(world.tasks.renorm(2, 0, 1.0))
        states = loss.states
        noise = world.policy_noise(states[..., 0].numel(), self.rng)
        policy_loss, entropy, q = self._policy_loss(states, noise, self.two_heads(), batch.task)
        check_finite(policy_loss, named, "the policy's loss")
        self._descend(self.policy_optimizer, policy_loss, self._policy)
        with torch.no_grad():
            target = [p.data for p in self.target.parameters()]
            present = [p.data for p in world.values.parameters()]
            torch._foreach_lerp_(target, present, recipe.target_rate)
            parts = [loss.total, loss.consistency, loss.reward, loss.value, loss.end]
            numbers = [*parts, policy_loss, entropy, q, self.scale, norm]
            return torch.stack([number.detach() for number in numbers])

    @torch.no_grad()
    def targets(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """What Q is fitted to, [H, n], and the latent states [H, n, L] that d is fitted to.

        q = r + gamma (1 - terminated) min(Q'_i, Q'_j)(z', p(z')): an episode that was cut is
        bootstrapped through, one that ended is not.
        """
        world = self.world
        after = batch.obs[1:].flatten(0, 1)
        task = self._repeated(batch.task, len(batch.reward))
        states = world.encode(after, task)
        noise = world.policy_noise(len(after), self.rng)
        heads = self.target.layers(self.two_heads())
        value, _ = world.expected(heads, states, noise, task, least=True)
        going = batch.discount * (1 - batch.terminated)
        target = batch.reward + going * value.view_as(batch.reward)
        return target, states.unflatten(0, batch.reward.shape)

    def model_loss(
        self, batch: Batch, targets: Tensor, next_states: Tensor, dropped: Tensor | None
    ) -> ModelLoss:
        """The loss of encoder, dynamics, rewards, ends and values; the module's lines 3 and 4.

        `targets` [H, n] and `next_states` [H, n, L] are constants, `dropped` [E, H n, hidden] the
        units that the value networks leave out.
        """
        recipe, world = self.recipe, self.world
        steps = len(batch.reward)
        states = [world.encode(batch.obs[0], batch.task)]
        for action in batch.action:
            states.append(world.next(states[-1], action, batch.task))
        path = torch.stack(states)
        task = self._repeated(batch.task, steps)
        z, action = path[:-1].flatten(0, 1), batch.action.flatten(0, 1)
        both = torch.cat([world.with_task(z, task), action], -1)
        reward = world.reward(both).unflatten(0, (steps, -1))
        q = world.q(world.values.layers(), z, action, task, dropped).unflatten(1, (steps, -1))
        weights = self.weights[:steps] / steps
        parts = {
            "consistency": (path[1:] - next_states).square().mean((1, 2)) @ weights,
            "reward": world.code.loss(reward, batch.reward).mean(1) @ weights,
            "value": world.code.loss(q, targets).mean((0, 2)) @ weights,
            "end": self._end_loss(path[1:].flatten(0, 1), task, batch.terminated.flatten()),
        }
        total = sum(getattr(recipe, name) * part for name, part in parts.items())
        return ModelLoss(total=total, states=path.detach(), **parts)

    def _end_loss(self, z: Tensor, task: Tensor | None, terminated: Tensor) -> Tensor:
        """How badly ends are predicted from the states they lead to; 0 where they are not."""
        world = self.world
        if world.ended is None:
            return z.new_zeros(())
        logit = world.ended(world.with_task(z, task)).squeeze(-1)
        return F.binary_cross_entropy_with_logits(logit, terminated)

    def policy_loss(
        self, states: Tensor, noise: Tensor | None, pair: Tensor, task: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The loss of the policy in latent states [H + 1, n, L], its entropy and the mean Q.

        The value networks are constants: gradients reach the policy through its actions.
        """
        recipe, world = self.recipe, self.world
        task = self._repeated(task, len(states))
        heads = [layer.map(Tensor.detach) for layer in world.values.layers(pair)]
        q, entropy = world.expected(heads, states.flatten(0, 1), noise, task)
        q, entropy = (x.unflatten(0, states.shape[:2]) for x in (q, entropy))
        self._follow_scale(q[0].detach())
        weight = recipe.discrete_entropy if world.discrete else recipe.entropy
        gain = (q / self.scale + weight * entropy).mean(1)
        return -(gain * self.weights[: len(states)]).mean(), entropy.mean(), q.mean()

    def two_heads(self) -> Tensor:
        """Two of the value networks [2], drawn anew (all where there are no more)."""
        return pair_of(len(self.world.values), self.rng)

    @torch.no_grad()
    def _follow_scale(self, q: Tensor) -> None:
        """Let S follow the range of `q` [n] between its quantiles, at least 1."""
        low, high = q.quantile(q.new_tensor(RANGE))
        self.scale.lerp_((high - low).clamp(min=1.0), self.recipe.target_rate)

    def _descend(
        self, optimizer: torch.optim.Optimizer, loss: Tensor, parameters: list[nn.Parameter]
    ) -> Tensor:
        """One step down the loss of these parameters alone; returns the gradient's norm."""
        optimizer.zero_grad(set_to_none=True)
        loss.backward(inputs=parameters)
        norm = nn.utils.clip_grad_norm_(parameters, self.recipe.clip)
        optimizer.step()
        return norm

    @staticmethod
    def _repeated(task: Tensor | None, times: int) -> Tensor | None:
        """The tasks [n] of stretches, for each of their steps [times * n]."""
        return None if task is None else task.repeat(times)

    def state_dict(self) -> dict[str, Any]:
        """All that updates go on from."""
        return {
            "world": self.world.state_dict(),
            "target": self.target.state_dict(),
            "model_optimizer": self.model_optimizer.state_dict(),
            "policy_optimizer": self.policy_optimizer.state_dict(),
            "scale": self.scale.clone(),
            "rng": self.rng.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        for name in ("world", "target", "model_optimizer", "policy_optimizer"):
            getattr(self, name).load_state_dict(state[name])
        self.scale.copy_(state["scale"])
        restore_generator(self.rng, state["rng"])


class TDMPC2Learner:
    """TD-MPC2 in one environment."""

    def __init__(
        self,
        recipe: TDMPC2,
        world: LatentWorld,
        task: Task,
        planner: Planner,
        rng: torch.Generator,
    ) -> None:
        self.recipe, self.task, self.rng = recipe, task, rng
        self.planner, self.explorer = planner, exploring(planner)
        self.device = world.device
        self.updates = Updates(recipe, world, rng)
        self.schedule = Schedule(recipe.updates_per_step, make_up=True)
        self._discount = torch.tensor(task.discount, device=self.device)

    def act(
        self, obs: Tensor, carry: Carry, *, explore: bool, rng: torch.Generator
    ) -> tuple[Tensor, Carry]:
        """Plan from observations [B, D]; the actions [B, A] (int64 [B]) and the warm start."""
        model = LatentModel(
            self.updates.world,
            self.task.action_space,
            discount=self.task.discount,
            heads=pair_of(len(self.updates.world.values), rng),
            half_precision=self.recipe.half_precision,
        )
        planner = self.explorer if explore and self.explorer is not None else self.planner
        plan, carry = planner(model.model(), model.root(obs), carry, rng=rng)
        action = plan.action
        if explore and self.explorer is None:
            action = disturbed(action, self.task.action_space, self.recipe.exploration, rng)
        return action.cpu(), carry

    def learn(self, replay: Replay, steps: int) -> dict[str, float]:
        """The updates that `steps` more rows make due; the means of what they logged."""
        due = self.schedule.due(steps)
        if due == 0 or replay.count(self.recipe.horizon) == 0:
            return {}
        size, attempts = (self.recipe.batch_size, self.recipe.horizon), Attempts()
        drawn = (replay.sequences(*size, self.rng, self.device) for _ in range(due))
        logged = attempts.each(self.updates.update, map(self.batch, drawn))
        if not logged:
            return attempts.result({})
        total = sum(logged, start=torch.zeros(len(LOGGED), device=self.device))
        means = (total / len(logged)).tolist()
        return attempts.result(
            {"updates": float(len(logged)), **dict(zip(LOGGED, means, strict=True))}
        )

    def batch(self, drawn: Sequences) -> Batch:
        """Stretches of the replay as the networks take them."""
        return Batch(
            drawn.obs,
            unit_actions(drawn.action, self.task.action_space),
            drawn.reward,
            drawn.terminated.float(),
            self._discount,
        )

    def world_model(self, record: dict[str, Any]) -> LatentWorldModel:
        """What was learned, to be saved or planned with."""
        return LatentWorldModel(self.updates.world, (self.task,), record)

    def state_dict(self) -> dict[str, Any]:
        """All that learning goes on from."""
        return {"updates": self.updates.state_dict(), "decisions": self.schedule.decisions}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.updates.load_state_dict(state["updates"])
        self.schedule.decisions = state["decisions"]


def pair_of(heads: int, rng: torch.Generator) -> Tensor:
    """Two different numbers [2] below `heads`, drawn at random; all where there are no more."""
    return torch.randperm(heads, generator=rng, device=rng.device)[:2]


def unit_actions(action: Tensor, space: Box | Discrete) -> Tensor:
    """Actions [..., A] of an environment in [-1, 1], or one-hot [..., n] where discrete."""
    if isinstance(space, Discrete):
        return F.one_hot(action, space.n).float()
    centre, half = (x.to(action) for x in unit_of(space))
    return (action - centre) / half


def exploring(planner: Planner) -> Planner | None:
    """The planner as it explores by itself: TD-MPC's with noise; None where it does not."""
    if isinstance(planner, TDMPC):
        return dataclasses.replace(planner, explore=1.0)
    return None


def disturbed(action: Tensor, space: Box | Discrete, amount: float, rng: torch.Generator) -> Tensor:
    """Actions with exploration added; see `TDMPC2.exploration`."""
    if isinstance(space, Discrete):
        other = draws.integers(rng, space.n, len(action)).to(action)
        at_random = draws.uniform(rng, len(action)).to(action.device) < amount
        return torch.where(at_random, other, action)
    low, high = (bound.to(action) for bound in space)
    half = unit_of(space)[1].to(action)
    noise = draws.normal(rng, *action.shape).to(action)
    return torch.clamp(action + amount * half * noise, low, high)
