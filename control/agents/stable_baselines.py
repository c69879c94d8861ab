"""SAC and PPO of stable-baselines3, driven by the loop of every other agent: the baselines.

Networks, losses and updates are theirs (Raffin et al. 2021, "Stable-Baselines3: reliable
reinforcement learning implementations", JMLR 22). Environments, replay, evaluation, records and
checkpoints are those of `control/train.py`, so that their curves can be laid over ours, and a run
that was stopped continues exactly.

SAC: Haarnoja et al. 2018, arXiv:1812.05905. PPO: Schulman et al. 2017, arXiv:1707.06347.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from control.agents.sac import acts_by_policy
from control.agents.schedule import Schedule
from control.devices import find_device
from control.envs import VectorEnv
from control.finite import Attempts, NotFiniteError, check_finite
from control.replay import Replay, Steps
from mbrl_core import draws
from mbrl_core.planners.common import (
    check_counts,
    check_not_negative,
    check_positive,
    check_unit,
)
from mbrl_core.types import Box, Carry, Discrete, Planner


@dataclass(frozen=True, kw_only=True)
class BaselineSAC:
    """SAC with the defaults of stable-baselines3; `start` makes the learner.

    hidden: units of the hidden layers of the policy and of each critic.
    learning_rate: of Adam, for policy, critics and temperature.
    batch_size: transitions per update.
    discount: gamma, per decision.
    target_rate: the share by which the target critics follow at each update.
    updates_per_step: per decision; may be a fraction. 1 is their `gradient_steps` at `train_freq` 1
        in one environment; none are made up for the random phase, there as here.
    device: where the networks lie, such as `cpu` or `cuda`.
    random_frames: their `learning_starts`, in simulator frames; theirs are 100 decisions.
    action_repeat: see `Recipe`.
    """

    hidden: Sequence[int] = (256, 256)
    learning_rate: float = 3e-4
    batch_size: int = 256
    discount: float = 0.99
    target_rate: float = 0.005
    updates_per_step: float = 1.0
    device: str = "cpu"
    random_frames: int = 5000
    action_repeat: int = 2

    def __post_init__(self) -> None:
        check_counts(self, "batch_size", "action_repeat")
        check_counts(self, "random_frames", least=0)
        check_positive(self, "learning_rate", "target_rate")
        check_not_negative(self, "updates_per_step")
        check_unit(self, "discount")

    def start(
        self, env: VectorEnv, planner: Planner | None, *, rng: torch.Generator
    ) -> BaselineSACLearner:
        """A learner that knows nothing yet.

        Raises ValueError where a planner is to choose the actions, or they are not between bounds.
        """
        acts_by_policy(planner)
        space = env.action_space
        if not isinstance(space, Box) or not bool((space.high - space.low).isfinite().all()):
            raise ValueError(f"SAC needs continuous actions between bounds, and {env.name} has not")
        return BaselineSACLearner(self, env, rng)


@dataclass(frozen=True, kw_only=True)
class BaselinePPO:
    """PPO with the defaults of stable-baselines3; `start` makes the learner.

    hidden: units of the hidden layers of the policy and of the value.
    rollout: steps of each environment between two updates.
    epochs, batch_size: passes over a rollout, and steps per gradient step.
    learning_rate: of Adam.
    discount: gamma, per decision.
    gae_lambda: of generalised advantage estimation (Schulman et al. 2016, arXiv:1506.02438).
    clip: how far a probability's ratio may move from 1.
    entropy: weight of the policy's entropy.
    device: where the networks lie; the CPU is the faster one for networks of this size.
    action_repeat: see `Recipe`. There is no random phase: what PPO learns from is its own.
    """

    hidden: Sequence[int] = (64, 64)
    rollout: int = 2048
    epochs: int = 10
    batch_size: int = 64
    learning_rate: float = 3e-4
    discount: float = 0.99
    gae_lambda: float = 0.95
    clip: float = 0.2
    entropy: float = 0.0
    device: str = "cpu"
    action_repeat: int = 2

    random_frames = 0

    def __post_init__(self) -> None:
        check_counts(self, "rollout", "epochs", "action_repeat")
        check_counts(self, "batch_size", least=2)  # advantages are standardised within a batch
        check_positive(self, "learning_rate", "clip")
        check_not_negative(self, "entropy")
        check_unit(self, "discount", "gae_lambda")

    def start(
        self, env: VectorEnv, planner: Planner | None, *, rng: torch.Generator
    ) -> BaselinePPOLearner:
        """A learner that knows nothing yet.

        Raises ValueError where a planner is to choose the actions, or a rollout is a single step.
        """
        acts_by_policy(planner)
        if self.rollout * env.num_envs < 2:
            raise ValueError("BaselinePPO.rollout must be at least 2 in a single environment")
        return BaselinePPOLearner(self, env, rng)


class BaselineLearner:
    """What both share: an algorithm of stable-baselines3 without its own environment and clock."""

    def __init__(self, env: VectorEnv, rng: torch.Generator, device: str) -> None:
        self.space = env.action_space
        self.num_envs = env.num_envs
        self.rng = rng
        self.device = find_device(device)
        self.algorithm: Any = None
        self.stepped = 0  # steps of its optimisers
        self.batch: dict[str, Tensor] = {}  # what it learns from at the moment

    def prepare(self, algorithm: Any, env: VectorEnv) -> None:
        """Give the algorithm its spaces and networks, and silence it."""
        from stable_baselines3.common.logger import Logger

        algorithm.observation_space, algorithm.action_space = _spaces(env)
        algorithm.n_envs = env.num_envs
        with self.seeded():
            algorithm._setup_model()
        algorithm.set_logger(Logger(None, []))
        self.algorithm = algorithm
        for optimizer in self.optimizers:
            optimizer.register_step_pre_hook(self.check)

    @property
    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Of all that an update changes."""
        return [self.algorithm.policy.optimizer]

    def check(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        """Raise NotFiniteError before a step whose gradient is NaN or infinite."""
        parameters = [each for group in optimizer.param_groups for each in group["params"]]
        gradients = [each.grad for each in parameters if each.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        check_finite(norm, self.batch, "the norm of a gradient of stable-baselines3")
        self.stepped += 1

    @contextlib.contextmanager
    def seeded(self) -> Iterator[None]:
        """Let the global generators, from which stable-baselines3 draws, follow from `rng` alone;
        they are as they were afterwards. NaN is let through to the losses, see `unvalidated`."""
        seed = int(draws.integers(self.rng, 2**31, 1))
        kept = np.random.get_state()
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices), unvalidated():
            torch.manual_seed(seed)
            np.random.seed(seed)
            try:
                yield
            finally:
                np.random.set_state(kept)

    def logged(self) -> dict[str, float]:
        """What the algorithm recorded of its updates since the last look."""
        found = self.algorithm.logger.name_to_value
        named = {name.removeprefix("train/"): float(value) for name, value in found.items()}
        found.clear()
        return {name: v for name, v in named.items() if name not in ("n_updates", "learning_rate")}

    def world_model(self, record: dict[str, Any]) -> None:
        """None: nothing of the world is modelled."""
        return None

    def state_dict(self) -> dict[str, Any]:
        """Weights, optimisers and the number of updates."""
        parameters = self.algorithm.get_parameters()
        return {"parameters": parameters, "updates": self.algorithm._n_updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.algorithm.set_parameters(state["parameters"], device=self.device)
        self.algorithm._n_updates = state["updates"]


class BaselineSACLearner(BaselineLearner):
    """Soft actor-critic, off-policy, from the run's replay."""

    def __init__(self, recipe: BaselineSAC, env: VectorEnv, rng: torch.Generator) -> None:
        from stable_baselines3 import SAC

        super().__init__(env, rng, recipe.device)
        algorithm = SAC(
            "MlpPolicy",
            None,  # type: ignore[arg-type]
            learning_rate=recipe.learning_rate,
            buffer_size=1,
            batch_size=recipe.batch_size,
            tau=recipe.target_rate,
            gamma=recipe.discount,
            target_entropy=-float(np.prod(_spaces(env)[1].shape)),  # what "auto" is
            policy_kwargs={"net_arch": list(recipe.hidden)},
            device=self.device,
            _init_setup_model=False,
        )
        self.prepare(algorithm, env)
        self.recipe = recipe
        self.schedule = Schedule(recipe.updates_per_step)

    def act(
        self, obs: Tensor, carry: Carry, *, explore: bool, rng: torch.Generator
    ) -> tuple[Tensor, Carry]:
        """Observations [B, D] to actions [B, A]: draws from the policy, or its squashed mean."""
        with torch.no_grad():
            seen = obs.to(self.device)
            mean, log_std, _ = self.algorithm.actor.get_action_dist_params(seen)
            if explore:
                mean = mean + log_std.exp() * draws.normal(rng, *mean.shape).to(mean)
            return _unscaled(torch.tanh(mean).cpu(), self.space), None

    def learn(self, replay: Replay, steps: int) -> dict[str, float]:
        """The updates that `steps` more transitions make due, and what they recorded.

        The first call makes none: the random phase is not made up for.
        """
        due = self.schedule.due(steps)
        if due == 0:
            return {}
        size, attempts = self.recipe.batch_size, Attempts()
        with self.seeded():
            batches = (replay.sample(size, self.rng) for _ in range(due))
            logged = attempts.each(self.update, batches)
        return attempts.result({"updates": float(len(logged)), **_means(logged)})

    def update(self, batch: Steps) -> dict[str, float]:
        """One update of everything from n transitions, and what it recorded.

        Raises NotFiniteError where a gradient is NaN or infinite; what it belongs to is then
        unchanged.
        """
        self.batch = batch._asdict()
        self.algorithm.replay_buffer = _Drawn(batch, self.space, self.device)
        self.algorithm.train(1, len(batch.reward))
        return self.logged()

    @property
    def optimizers(self) -> list[torch.optim.Optimizer]:
        """See `BaselineLearner`."""
        algorithm = self.algorithm
        return [algorithm.actor.optimizer, algorithm.critic.optimizer, algorithm.ent_coef_optimizer]

    def state_dict(self) -> dict[str, Any]:
        """See `BaselineLearner`; and how many decisions there were."""
        temperature = self.algorithm.log_ent_coef.detach().clone()
        more = {"decisions": self.schedule.decisions, "log_temperature": temperature}
        return super().state_dict() | more

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        super().load_state_dict(state)
        with torch.no_grad():
            self.algorithm.log_ent_coef.copy_(state["log_temperature"])
        self.schedule.decisions = state["decisions"]


class _Drawn:
    """Transitions that are drawn already, as stable-baselines3 samples them."""

    def __init__(self, steps: Steps, space: Box | Discrete, device: torch.device) -> None:
        self.steps, self.space, self.device = steps, space, device

    def sample(self, batch_size: int, env: None = None) -> Any:
        """All of them; their actions in units of half the range."""
        from stable_baselines3.common.type_aliases import ReplayBufferSamples

        steps = self.steps
        parts = (
            steps.obs,
            _scaled(steps.action, self.space),
            steps.next_obs,
            steps.terminated.float().unsqueeze(1),
            steps.reward.unsqueeze(1),
        )
        return ReplayBufferSamples(*(part.to(self.device) for part in parts))


class BaselinePPOLearner(BaselineLearner):
    """Proximal policy optimisation, on-policy, from the latest rows of the run's replay."""

    def __init__(self, recipe: BaselinePPO, env: VectorEnv, rng: torch.Generator) -> None:
        from stable_baselines3 import PPO

        super().__init__(env, rng, recipe.device)
        algorithm = PPO(
            "MlpPolicy",
            None,  # type: ignore[arg-type]
            learning_rate=recipe.learning_rate,
            n_steps=recipe.rollout,
            batch_size=recipe.batch_size,
            n_epochs=recipe.epochs,
            gamma=recipe.discount,
            gae_lambda=recipe.gae_lambda,
            clip_range=recipe.clip,
            ent_coef=recipe.entropy,
            policy_kwargs={"net_arch": list(recipe.hidden)},
            device=self.device,
            _init_setup_model=False,
        )
        self.prepare(algorithm, env)
        self.recipe = recipe
        self.drawn: list[Tensor] = []  # [B, A] each: the rollout's actions before they were clipped

    def act(
        self, obs: Tensor, carry: Carry, *, explore: bool, rng: torch.Generator
    ) -> tuple[Tensor, Carry]:
        """Observations [B, D] to actions [B, A]: draws from the policy, or the likeliest.

        An action drawn while exploring is kept as it was before its bounds until `learn` is told
        what came of it.
        """
        with torch.no_grad(), unvalidated():
            policy = self.algorithm.policy.get_distribution(obs.to(self.device)).distribution
            if isinstance(self.space, Discrete):
                logits = policy.logits
                if explore:
                    logits = logits + draws.gumbel(rng, *logits.shape).to(logits)
                action = drawn = logits.argmax(1).cpu()
            else:
                mean = policy.mean
                if explore:
                    mean = mean + policy.stddev * draws.normal(rng, *mean.shape).to(mean)
                drawn = mean.cpu()
                action = torch.clamp(drawn, self.space.low, self.space.high)
        if explore:
            self.drawn.append(drawn.view(len(drawn), -1))
        return action, None

    def learn(self, replay: Replay, steps: int) -> dict[str, float]:
        """An update once the rollout is complete, and what it recorded.

        Raises NotFiniteError where a gradient is NaN or infinite; what was still to be made of the
        rollout is then left out.
        """
        if len(self.drawn) < self.recipe.rollout:
            return {}
        rows = self.recipe.rollout * self.num_envs
        due, before = self.recipe.epochs * -(-rows // self.recipe.batch_size), self.stepped
        latest, truncated = replay.latest(rows)
        self.batch = latest._asdict()
        with self.seeded():
            self.fill(latest, truncated, torch.stack(self.drawn))
            self.drawn.clear()
            try:
                self.algorithm.train()
            except NotFiniteError as error:
                made = self.stepped - before
                logged = {"updates": float(made)}
                raise NotFiniteError(str(error), error.batch, due - made, logged) from error
        return {"updates": float(due), **self.logged()}

    @torch.no_grad()
    def fill(self, steps: Steps, truncated: Tensor, drawn: Tensor) -> None:
        """Put a rollout of T steps of each environment, rows t*B + b, into the rollout buffer.

        `drawn` [T, B, A] are the actions before they were clipped. An episode that was truncated
        earns the value of its last observation with its last reward.
        """
        policy, buffer = self.algorithm.policy, self.algorithm.rollout_buffer
        shape = drawn.shape[:2]
        obs = steps.obs.to(self.device)
        action = drawn.flatten(0, 1).to(self.device)
        action = action.flatten() if isinstance(self.space, Discrete) else action
        value, log_prob, _ = policy.evaluate_actions(obs, action)
        after = policy.predict_values(steps.next_obs.to(self.device)).flatten().cpu()
        reward = steps.reward + torch.where(truncated, self.recipe.discount * after, 0.0)
        over = (steps.terminated | truncated).view(shape)
        started = torch.cat([torch.ones_like(over[:1]), over[:-1]])
        buffer.reset()
        columns = (obs.cpu(), action.cpu(), reward, started.flatten(), value.flatten(), log_prob)
        for row in zip(*(column.split(shape[1]) for column in columns), strict=True):
            seen, act, earned, first = (part.numpy() for part in row[:4])
            buffer.add(seen, act, earned, first, *row[4:])
        buffer.compute_returns_and_advantage(after.view(shape)[-1], over[-1].numpy())

    def state_dict(self) -> dict[str, Any]:
        """See `BaselineLearner`; and the rollout so far."""
        return super().state_dict() | {"drawn": list(self.drawn)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        super().load_state_dict(state)
        self.drawn = list(state["drawn"])


@contextlib.contextmanager
def unvalidated() -> Iterator[None]:
    """No check of distributions' parameters: what is NaN comes out as such, in actions and losses,
    where the loop deals with it as with every agent's."""
    distribution = torch.distributions.Distribution
    before = distribution._validate_args
    distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        distribution.set_default_validate_args(before)


def _means(logged: Sequence[dict[str, float]]) -> dict[str, float]:
    """The averages of what several updates recorded under the same names."""
    names = logged[0] if logged else ()
    return {name: sum(each[name] for each in logged) / len(logged) for name in names}


def _spaces(env: VectorEnv) -> tuple[Any, Any]:
    """Observations and actions as Gymnasium's spaces."""
    from gymnasium import spaces

    seen = spaces.Box(-np.inf, np.inf, (env.observation_dim,), np.float32)
    space = env.action_space
    if isinstance(space, Discrete):
        return seen, spaces.Discrete(space.n)
    return seen, spaces.Box(space.low.numpy(), space.high.numpy(), dtype=np.float32)


def _scaled(action: Tensor, space: Box | Discrete) -> Tensor:
    """Actions [R, A] between their bounds to [-1, 1]."""
    assert isinstance(space, Box)
    return 2 * (action - space.low) / (space.high - space.low) - 1


def _unscaled(action: Tensor, space: Box | Discrete) -> Tensor:
    """Actions [R, A] in [-1, 1] to their bounds."""
    assert isinstance(space, Box)
    return space.low + (action + 1) / 2 * (space.high - space.low)
