"""PETS's probabilistic ensemble (Chua et al. 2018, arXiv:1805.12114) as `Dynamics`.

E networks each predict a Gaussian over the change of the observation (and the reward, where that is
learned). What they disagree on is what is not known yet; their variances are what cannot be known.

    q_e(s' | s, a) = N(s + mu_e(s, a), diag(sigma_e^2(s, a)))

A rollout follows one member per row: drawn at its first step and held (TS-infinity), or drawn anew
at each step (TS-1). All members run at once as batched matrix products, rows grouped by member.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, TypeAlias, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from control.finite import check_finite
from mbrl_core import draws
from mbrl_core.types import Box, Discrete, Rng, Transition

Propagation: TypeAlias = Literal["ts_inf", "ts_1", "mean"]
RewardFunction: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(obs [R, D], action [R, A], next obs [R, D]) to rewards [R]."""
EndFunction: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(obs [R, D], action [R, A], next obs [R, D]) to bool [R]: the episode ended with this step."""

BOUND_PENALTY = 0.01  # of the soft bounds on the log-variance; the authors' value


class EnsembleState(NamedTuple):
    """R states of rollouts through the ensemble."""

    obs: Tensor  # [R, D]
    member: Tensor  # [R] int64: whom the row follows; -1 = not drawn yet


class Normalizer(nn.Module):
    """Standardises the last axis; what it was fitted to is saved with the weights."""

    mean: Tensor
    std: Tensor
    fitted: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))
        self.register_buffer("fitted", torch.tensor(False))

    def fit(self, data: Tensor) -> None:
        """Take mean and std from `data` [n, dim]; a constant column keeps its scale."""
        self.mean.copy_(data.mean(0))
        std = data.std(0, unbiased=False)
        self.std.copy_(torch.where(std > 1e-6, std, 1.0))
        self.fitted.fill_(True)

    def forward(self, raw: Tensor) -> Tensor:
        """Raw [..., dim] to standardised."""
        return (raw - self.mean) / self.std


class Ensemble(nn.Module):
    """E Gaussian networks over one-step changes; see the module's first lines.

    Targets are standardised like inputs, which the paper does not do: a cart's position and its
    pole's velocity change by amounts of different size, and both count.
    """

    max_log_var: Tensor
    min_log_var: Tensor

    def __init__(
        self,
        observation_dim: int,
        action_space: Box | Discrete,
        *,
        members: int = 5,
        hidden: Sequence[int] = (200, 200, 200),
        propagation: Propagation = "ts_inf",
        aleatoric: bool = True,
        discount: float = 1.0,
        reward: RewardFunction | None = None,
        terminated: EndFunction | None = None,
        rng: torch.Generator | None = None,
    ) -> None:
        """Make an ensemble with random weights.

        Args:
            observation_dim: D.
            action_space: discrete actions enter the networks one-hot.
            members: E.
            hidden: widths of the hidden layers.
            propagation: how rollouts use the members; "mean" averages them into one deterministic,
                smooth model, for planners that differentiate.
            aleatoric: whether "ts_inf" and "ts_1" sample the predicted noise.
            discount: gamma, folded into each transition's discount.
            reward: the known reward; learned from data where None.
            terminated: the known end of an episode; never where None.
            rng: where the weights are drawn from.

        Raises:
            ValueError: an unknown propagation, or sizes below 1.
        """
        super().__init__()
        if members < 1 or observation_dim < 1 or min(hidden, default=0) < 1:
            raise ValueError("members, observation_dim and hidden layers must be at least 1")
        self.observation_dim = observation_dim
        self.action_space = action_space
        self.members = members
        self.hidden = tuple(hidden)
        self.discount = discount
        self.reward = reward
        self.terminated = terminated
        self.terminates = terminated is not None
        self.propagation: Propagation = _checked(propagation)
        self.aleatoric = aleatoric
        self.run = members  # rows in succession among which members are dealt evenly
        # Where the rows of the latest step went. Rollouts hand the same members on, so that a held
        # member is grouped once per rollout, not once per step.
        self._grouping: _Grouping | None = None

        action_dim = width_of(action_space)
        self.target_dim = observation_dim + (reward is None)
        sizes = [observation_dim + action_dim, *hidden, 2 * self.target_dim]
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for fan_in, fan_out in itertools.pairwise(sizes):
            weight, std = torch.empty(members, fan_in, fan_out), fan_in**-0.5
            nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std, generator=rng)
            self.weights.append(nn.Parameter(weight))
            self.biases.append(nn.Parameter(torch.zeros(members, 1, fan_out)))
        self.max_log_var = nn.Parameter(torch.full((self.target_dim,), 0.5))
        self.min_log_var = nn.Parameter(torch.full((self.target_dim,), -10.0))
        self.inputs = Normalizer(sizes[0])
        self.targets = Normalizer(self.target_dim)

    # Dynamics

    def root(self, obs: Tensor) -> EnsembleState:
        """Observations [B, D] as states that follow no member yet, where the weights lie.

        Raises ValueError where the ensemble was never fitted.
        """
        if not self.inputs.fitted:
            raise ValueError("the ensemble was never fitted to data: it cannot be planned with")
        obs = obs.to(self.inputs.mean.device)
        member = torch.full((len(obs),), -1, dtype=torch.int64, device=obs.device)
        return EnsembleState(obs, member)

    def step(self, state: EnsembleState, action: Tensor, *, rng: Rng) -> Transition:
        """R states and actions ([R, A], or int64 [R] if discrete) to R transitions."""
        x = self.features(state.obs, action)
        member = state.member
        if self.propagation == "mean":
            change = self._mean_of_all(x)
        else:
            grouping = self._group(member, rng)
            member, change = grouping.member, self._change(x, grouping, rng)
        obs = state.obs + change[:, : self.observation_dim]
        reward = change[:, -1] if self.reward is None else self.reward(state.obs, action, obs)
        discount = torch.full_like(reward, self.discount)
        if self.terminated is not None:
            discount = discount.masked_fill(self.terminated(state.obs, action, obs), 0.0)
        return Transition(EnsembleState(obs, member), reward, discount)

    def using(
        self,
        *,
        propagation: Propagation | None = None,
        aleatoric: bool | None = None,
        discount: float | None = None,
    ) -> Ensemble:
        """The same weights (shared, not copied) under other settings."""
        other = copy.copy(self)
        if propagation is not None:
            other.propagation = _checked(propagation)
        if aleatoric is not None:
            other.aleatoric = aleatoric
        if discount is not None:
            other.discount = discount
        return other

    def only(self, members: Tensor) -> Ensemble:
        """A copy with those members [n] alone: the best by a holdout, say."""
        other = copy.deepcopy(self)
        for layers in (other.weights, other.biases):
            for layer in layers:
                layer.data = layer.data[members]
        other.members = other.run = len(members)
        other._grouping = None
        return other

    def dealt(self, size: int) -> Ensemble:
        """The same weights, each `size` rows in succession following all members evenly.

        See `mbrl_core.Particles`. Runs of E rows do so already where one divides the other.
        """
        other = copy.copy(self)
        aligned = size % self.members == 0 or self.members % size == 0
        other.run = self.members if aligned else size
        return other

    def disagreement(self, state: EnsembleState, action: Tensor) -> Tensor:
        """How far the members are apart: the standard deviation [R] of their mean predictions.

        It is the root of their variance averaged over the T targets, in units of the targets'
        standard deviation in the data (Sekar et al. 2020, "Planning to Explore via Self-Supervised
        World Models", eq. 2, take the variance).
        """
        x = self.features(state.obs, action)
        means = self._layers(x.expand(self.members, *x.shape), self.target_dim)
        # Unlike a square root, the norm has a gradient where all members agree.
        spread = torch.linalg.vector_norm(means - means.mean(0), dim=(0, 2))
        return spread / (self.members * self.target_dim) ** 0.5

    # Networks

    def features(self, obs: Tensor, action: Tensor) -> Tensor:
        """Network inputs [..., D + A], standardised."""
        if isinstance(self.action_space, Discrete):
            action = F.one_hot(action, self.action_space.n)
        return self.inputs(torch.cat([obs, action.to(obs.dtype)], dim=-1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Member e's rows x[e] [n, in] to mean and log-variance [E, n, T], standardised."""
        mean, raw = self._layers(x, 2 * self.target_dim).chunk(2, dim=-1)
        return mean, self._bounded(raw)

    def _layers(self, x: Tensor, outputs: int) -> Tensor:
        """The first columns [E, n, outputs] of the output; planning may not need the variances."""
        in_place = not torch.is_grad_enabled()
        *layers, (weight, bias) = zip(self.weights, self.biases, strict=True)
        for inner, offset in layers:
            x = F.silu(torch.baddbmm(offset, x, inner), inplace=in_place)
        return torch.baddbmm(bias[..., :outputs], x, weight[..., :outputs])

    def _bounded(self, log_var: Tensor) -> Tensor:
        """The soft bounds of the paper's appendix A.1."""
        log_var = self.max_log_var - F.softplus(self.max_log_var - log_var)
        return self.min_log_var + F.softplus(log_var - self.min_log_var)

    def _mean_of_all(self, x: Tensor) -> Tensor:
        """Rows [R, in] to the average of the members' mean changes [R, T]."""
        mean = self._layers(x.expand(self.members, *x.shape), self.target_dim).mean(0)
        return mean * self.targets.std + self.targets.mean

    def _change(self, x: Tensor, grouping: _Grouping, rng: Rng) -> Tensor:
        """Rows [R, in] to the change [R, T] each row's member predicts; rewards carry no noise."""
        dim, table = self.target_dim, x.new_zeros(self.members * grouping.width, x.shape[1])
        grouped = table.index_copy(0, grouping.slot, x).view(self.members, grouping.width, -1)
        outputs = self._layers(grouped, 2 * dim if self.aleatoric else dim)
        outputs = outputs.flatten(0, 1).index_select(0, grouping.slot)
        change = outputs[:, :dim]
        if self.aleatoric:
            observed = self.observation_dim
            std = (0.5 * self._bounded(outputs[:, dim:])[:, :observed]).exp()
            noise = draws.normal(rng, len(x), observed).to(std)
            change = torch.cat([change[:, :observed] + std * noise, change[:, observed:]], dim=1)
        return change * self.targets.std + self.targets.mean

    def _group(self, held: Tensor, rng: Rng) -> _Grouping:
        """Whom each of R rows follows in this step, and where it goes among that member's rows."""
        known = self._grouping
        if self.propagation == "ts_inf" and known is not None and known.is_of(held):
            return known
        member = self._members(held, rng)
        slot, width = _slots(member, self.members)
        self._grouping = _Grouping(member, _version(member), slot, width)
        return self._grouping

    def _members(self, held: Tensor, rng: Rng) -> Tensor:
        fresh = torch.ones_like(held, dtype=torch.bool) if self.propagation == "ts_1" else held < 0
        if bool(fresh.all()):
            return balanced_members(len(held), self.members, rng, self.run).to(held.device)
        index = fresh.nonzero().squeeze(1)
        if len(index) == 0:
            return held
        # Only rows still without a member draw, so a row's numbers do not depend on other roots.
        gens = [rng] if isinstance(rng, torch.Generator) else list(rng)
        counts = (index // (len(held) // len(gens))).bincount(minlength=len(gens)).tolist()
        drawn = [
            balanced_members(n, self.members, g, self.run)
            for g, n in zip(gens, counts, strict=True)
            if n
        ]
        return held.index_copy(0, index, torch.cat(drawn).to(held.device))


class _Grouping(NamedTuple):
    """Rows sorted by member into a table [E, width]."""

    member: Tensor  # [R]
    version: int  # of `member` when it was grouped: it must not have been written to since
    slot: Tensor  # [R] where each row goes in the flattened table
    width: int

    def is_of(self, member: Tensor) -> bool:
        """Whether this groups that very tensor, or all of it under another view."""
        same = member.data_ptr() == self.member.data_ptr() and member.shape == self.member.shape
        return same and member.is_contiguous() and _version(member) == self.version


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def width_of(space: Box | Discrete) -> int:
    """Columns that an action of this space takes among a network's inputs."""
    return space.n if isinstance(space, Discrete) else len(space.low)


def balanced_members(rows: int, members: int, rng: Rng, run: int | None = None) -> Tensor:
    """Members [rows] int64 such that each `run` rows of a root follow all E evenly.

    No member has more than one row above another in a run, and which do is random. Runs of E, the
    default, or of a multiple make the groups of the batched product equally large.
    """
    roots = 1 if isinstance(rng, torch.Generator) else len(rng)
    run = members if run is None else run
    share, rounds = rows // roots, -(-run // members)
    runs = -(-share // run)
    order = draws.uniform(rng, roots * runs * rounds, members).argsort(1)
    return order.view(roots * runs, -1)[:, :run].reshape(roots, -1)[:, :share].flatten()


def _slots(member: Tensor, members: int) -> tuple[Tensor, int]:
    """Where rows go in a table [members, width] grouped by member: slots [R], and the width."""
    count = member.bincount(minlength=members)
    width = int(count.max())
    order = member.argsort(stable=True)
    start = count.cumsum(0) - count
    shift = torch.arange(members, device=member.device) * width - start
    slot = torch.arange(len(member), device=member.device) + shift.repeat_interleave(count)
    return torch.empty_like(order).index_copy_(0, order, slot), width


def _checked(propagation: str) -> Propagation:
    if propagation not in get_args(Propagation):
        raise ValueError(f"propagation must be one of {get_args(Propagation)}, not {propagation!r}")
    return propagation  # type: ignore[return-value]


# ------------------------------------------------------------------------------------- learning


class Split(NamedTuple):
    """Which rows of the data each member learns from, and which judge them; only ever extended."""

    rows: int  # rows of data divided so far
    train: Tensor  # [E, n] int64: the members' bootstrap samples, drawn once
    holdout: Tensor  # [m] int64: rows nobody learns from


class Fit(NamedTuple):
    """How a fit went."""

    epochs: int  # gone through
    best_epoch: int  # whose weights were kept; 0 = those before the fit
    train_loss: float  # mean of the last epoch
    holdout_mse: float  # of the weights kept, in standardised targets; NaN without a holdout
    holdout_gmse: float  # likewise, as the geometric mean over rows
    member_gmse: Tensor  # [E] likewise, of each member alone: elites are the lowest


def empty_split(members: int) -> Split:
    """Of no data."""
    nothing = torch.zeros(0, dtype=torch.int64)
    return Split(0, torch.zeros(members, 0, dtype=torch.int64), nothing)


def extend_split(split: Split, rows: int, *, holdout: float, rng: torch.Generator) -> Split:
    """Divide the rows that came since; what was decided for earlier rows stays.

    Each member draws its sample with replacement among the new rows alone, so that as data arrives
    a member's bootstrap sample grows but never changes.
    """
    new = rows - split.rows
    if new <= 0:
        return split
    kept_out = min(max(1, round(holdout * new)), new - 1) if holdout > 0 else 0
    shuffled = split.rows + torch.randperm(new, generator=rng)
    members, left = len(split.train), new - kept_out
    picks = torch.randint(left, (members, left), generator=rng)
    return Split(
        rows,
        torch.cat([split.train, shuffled[kept_out:][picks]], dim=1),
        torch.cat([split.holdout, shuffled[:kept_out]]),
    )


def fit(
    model: Ensemble,
    optimizer: torch.optim.Optimizer,
    obs: Tensor,
    action: Tensor,
    reward: Tensor,
    next_obs: Tensor,
    split: Split,
    *,
    rng: torch.Generator,
    epochs: int = 50,
    patience: int = 5,
    tolerance: float = 0.0,
    batch_size: int = 256,
) -> Fit:
    """Fit the normalisers, then the networks by maximum likelihood; keep the best epoch.

    The best epoch has the lowest squared error on the holdout, as the geometric mean over its rows.
    In the arithmetic mean a few rows that cannot be predicted (a cart thrown against its stop)
    outweigh all others by a factor of thousands, and selection by it soon keeps the same weights
    for ever. Training stops after `patience` epochs without a new best.

    Args:
        model: changed in place.
        optimizer: of `model.parameters()`.
        obs: [n, D]; likewise next_obs.
        action: [n, A], or int64 [n] if discrete.
        reward: [n]; used where the model learns it.
        next_obs: what followed.
        split: of these n rows.
        rng: shuffles each member's sample each epoch.
        epochs: at most so many.
        patience: epochs without improvement.
        tolerance: share by which the error must fall to count as one.
        batch_size: rows per member and update.

    Raises:
        NotFiniteError: a loss was NaN or infinite.
    """
    targets = next_obs - obs
    if model.reward is None:
        targets = torch.cat([targets, reward[:, None]], dim=1)
    _fit_normalizers(model, obs, action, targets)
    with torch.no_grad():
        x, y = model.features(obs, action), model.targets(targets)
    best = _holdout_errors(model, x, y, split)
    kept, best_epoch, last_loss, epoch = _weights(model), 0, float("nan"), 0
    for epoch in range(1, epochs + 1):
        last_loss = _epoch(model, optimizer, x, y, split, rng, batch_size, epoch)
        errors = _holdout_errors(model, x, y, split)
        gain = best.mean(0).log().mean() - errors.mean(0).log().mean()
        if errors.numel() == 0 or gain > -math.log1p(-tolerance):
            best, best_epoch, kept = errors, epoch, _weights(model)
        if epoch - best_epoch >= patience:
            break
    model.load_state_dict(kept)
    rows = best.mean(0)
    return Fit(
        epoch,
        best_epoch,
        last_loss,
        float(rows.mean()),
        float(rows.log().mean().exp()),
        best.log().mean(1).exp(),
    )


def loss(model: Ensemble, x: Tensor, y: Tensor) -> Tensor:
    """The members' summed Gaussian negative log-likelihoods per dimension, and the bounds' penalty.

        mean((mu - y)^2 exp(-log_var) + log_var) + 0.01 (sum max_log_var - sum min_log_var)

    x [E, n, in] and y [E, n, T] are standardised.
    """
    mean, log_var = model(x)
    likelihood = ((mean - y).square() * (-log_var).exp() + log_var).mean((1, 2)).sum()
    return likelihood + BOUND_PENALTY * (model.max_log_var.sum() - model.min_log_var.sum())


def _fit_normalizers(model: Ensemble, obs: Tensor, action: Tensor, targets: Tensor) -> None:
    if isinstance(model.action_space, Discrete):
        action = F.one_hot(action, model.action_space.n)
    model.inputs.fit(torch.cat([obs, action.to(obs.dtype)], dim=-1))
    model.targets.fit(targets)


def _epoch(
    model: Ensemble,
    optimizer: torch.optim.Optimizer,
    x: Tensor,
    y: Tensor,
    split: Split,
    rng: torch.Generator,
    batch_size: int,
    epoch: int,
) -> float:
    """One pass of every member over its sample, each in an order of its own; the mean loss."""
    order = torch.rand(split.train.shape, generator=rng).argsort(1)
    shuffled = split.train.gather(1, order)
    total, batches = 0.0, shuffled.split(batch_size, dim=1)
    for number, index in enumerate(batches, 1):
        batch = {"x": x[index], "y": y[index], "rows": index}
        batch_loss = loss(model, batch["x"], batch["y"])
        check_finite(batch_loss, batch, f"the ensemble's loss in epoch {epoch}, batch {number}")
        optimizer.zero_grad(set_to_none=True)
        batch_loss.backward()
        optimizer.step()
        total += batch_loss.item()
    return total / len(batches)


@torch.no_grad()
def _holdout_errors(model: Ensemble, x: Tensor, y: Tensor, split: Split) -> Tensor:
    """Squared errors [E, m] of the holdout rows, averaged over dimensions."""
    held_x, held_y = x[split.holdout], y[split.holdout]
    mean, _ = model(held_x.expand(model.members, *held_x.shape))
    return (mean - held_y).square().mean(2).clamp(min=1e-12)


def _weights(model: Ensemble) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}
