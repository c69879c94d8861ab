"""Hybrid models: equations where they are known, a network for what they leave out.

hybrid = Residual(Pendulum(mass=1.0), ResidualNet(state_dim=3, action_dim=1))
fit_residual(hybrid, state, action, after, rng=rng)
plan, carry = planner(Model(hybrid, action_space=box), state, rng=rng)
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from mbrl_core import draws
from mbrl_core.types import Dynamics, Rng, Transition
from mbrl_core.wrapper import Wrapper


class ResidualNet(nn.Module):
    """A network from (state [R, D], action [R, A]) to a correction [R, D], or [R, D + 1].

    Its inputs and outputs are standardised by what `fit_residual` finds in the data. Until it is
    fitted the correction is 0: the last layer begins there.
    """

    mean: Tensor
    std: Tensor
    scale: Tensor

    def __init__(
        self,
        state_dim: int,
        action_dim: int,
        *,
        hidden: Sequence[int] = (64, 64),
        reward: bool = False,
        rng: torch.Generator | None = None,
    ) -> None:
        """`reward` adds a last column, for the reward; `rng` draws the weights.

        No `hidden` layer makes it linear.
        """
        super().__init__()
        sizes = [state_dim + action_dim, *hidden]
        layers: list[nn.Module] = []
        for fan_in, fan_out in itertools.pairwise(sizes):
            layer = skip_init(nn.Linear, fan_in, fan_out)
            nn.init.trunc_normal_(layer.weight, std=fan_in**-0.5, generator=rng)
            nn.init.zeros_(layer.bias)
            layers += [layer, nn.SiLU()]
        last = skip_init(nn.Linear, sizes[-1], state_dim + reward)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(*layers, last)
        self.register_buffer("mean", torch.zeros(sizes[0]))
        self.register_buffer("std", torch.ones(sizes[0]))
        self.register_buffer("scale", torch.ones(state_dim + reward))

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        """The correction [R, D], or [R, D + 1] with that of the reward last."""
        x = torch.cat([state, action], 1)
        return self.layers((x - self.mean) / self.std) * self.scale

    def standardise(self, state: Tensor, action: Tensor, residual: Tensor) -> None:
        """Take the scales from data; a column that is constant keeps its own."""
        x = torch.cat([state, action], 1)
        self.mean.copy_(x.mean(0))
        self.std.copy_(_usable(x.std(0, unbiased=False)))
        self.scale.copy_(_usable(residual.square().mean(0).sqrt()))


class Residual(Wrapper, nn.Module):
    """Known dynamics plus a learned correction: s' = f(s, a) + e(s, a).

    States are tensors [R, D]; gradients pass through both. Johannink et al. 2019, "Residual
    reinforcement learning for robot control", add to a known controller, Zeng et al. 2020,
    "TossingBot", to known physics. A correction of 0 is `base` bit for bit. A `disagreement` is
    that of `base`.
    """

    def __init__(
        self,
        base: Dynamics,
        correction: nn.Module,
        *,
        reward: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None,
    ) -> None:
        """Join the two.

        Args:
            base: what is known.
            correction: (state, action) to [R, D] or, where the reward is corrected too, [R, D + 1].
            reward: the known reward of (state, action, corrected next state); that of `base`, which
                judges its own next state, where None.
        """
        super().__init__()
        self.dynamics = base
        self.correction = correction
        self.reward = reward

    def around(self, dynamics: Dynamics) -> Residual:
        """See `Wrapper`."""
        return Residual(dynamics, self.correction, reward=self.reward)

    def step(self, state: Tensor, action: Tensor, *, rng: Rng) -> Transition:
        """See `Dynamics`. Where an episode ends is for `base` to say."""
        known = self.dynamics.step(state, action, rng=rng)
        change = self.correction(state, action)
        dim = state.shape[1]
        if change.dim() != 2 or change.shape[1] not in (dim, dim + 1):
            raise ValueError(
                f"the correction must be [R, {dim}], or [R, {dim + 1}] with the reward's last, "
                f"not {list(change.shape)}"
            )
        after = known.state + change[:, :dim]
        reward = known.reward if self.reward is None else self.reward(state, action, after)
        return known._replace(state=after, reward=reward + change[:, dim:].sum(1))


def fit_residual(
    model: Residual,
    state: Tensor,
    action: Tensor,
    after: Tensor,
    reward: Tensor | None = None,
    *,
    rng: torch.Generator,
    epochs: int = 100,
    batch_size: int = 256,
    learning_rate: float = 3e-3,
    weight_decay: float = 1e-4,
) -> float:
    """Fit the correction to what `base` gets wrong, by least squares with AdamW; in place.

    Args:
        model: the hybrid; only its `correction`, a `ResidualNet`, changes.
        state: [n, D]; likewise `after`, the states that followed.
        action: [n, A].
        after: what followed.
        reward: [n]; needed where the net corrects the reward.
        rng: orders the batches, and draws for a `base` that is random.
        epochs: passes over the data; the learning rate falls to 0 over them, as a cosine.
        batch_size: transitions per update.
        learning_rate: at the start.
        weight_decay: of AdamW.

    Returns:
        The mean squared error on the data, in units of the residual's mean square: 1 is no better
        than `base`, 0 perfect.

    Raises:
        ValueError: the net corrects the reward and none is given, or it does not and one is; or the
            data is not finite.
    """
    net = model.correction
    assert isinstance(net, ResidualNet)
    residual = _residuals(model, state, action, after, reward, rng)
    if residual.shape[1] != len(net.scale):
        wanted = "needs" if len(net.scale) > state.shape[1] else "does not take"
        raise ValueError(f"this correction {wanted} rewards to learn from")
    if not bool(torch.isfinite(residual).all()):
        raise ValueError("the residuals are not finite: check the transitions and the base model")
    net.standardise(state, action, residual)
    _descend(net, state, action, residual, rng, epochs, batch_size, learning_rate, weight_decay)
    with torch.no_grad():
        return float(((net(state, action) - residual) / net.scale).square().mean())


def _descend(
    net: ResidualNet,
    state: Tensor,
    action: Tensor,
    residual: Tensor,
    rng: torch.Generator,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    weight_decay: float,
) -> None:
    """Gradient descent on the squared error in batches; see `fit_residual`."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=learning_rate, weight_decay=weight_decay)
    batches = -(-len(state) // batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * batches)
    with torch.enable_grad():
        for _ in range(epochs):
            for index in torch.randperm(len(state), generator=rng).split(batch_size):
                error = (net(state[index], action[index]) - residual[index]) / net.scale
                optimizer.zero_grad(set_to_none=True)
                error.square().mean().backward()
                optimizer.step()
                schedule.step()


def _residuals(
    model: Residual,
    state: Tensor,
    action: Tensor,
    after: Tensor,
    reward: Tensor | None,
    rng: torch.Generator,
) -> Tensor:
    """What the known part leaves to be explained: [n, D], or [n, D + 1] with the reward's."""
    with torch.no_grad():
        known = model.dynamics.step(state, action, rng=draws.fork(rng))
        if reward is None:
            return after - known.state
        base = known.reward if model.reward is None else model.reward(state, action, after)
        return torch.cat([after - known.state, (reward - base).unsqueeze(1)], 1)


def _usable(scale: Tensor) -> Tensor:
    return torch.where(scale > 1e-8, scale, 1.0)
