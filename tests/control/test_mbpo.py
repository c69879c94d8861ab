"""Laws of MBPO: its schedule, its model's elites, its rollouts, its batches, its resumption."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from control import checkpoints
from control.actor_critic import Actor, ActorPolicy, observed
from control.agents.mbpo import MBPO, MBPOLearner, imagine
from control.agents.sac import SAC
from control.endings import Ending, fit_ending
from control.ensemble import EnsembleState
from control.envs import make_env
from control.learned_model import LearnedModel, ModelRecipe
from control.replay import Replay, Steps
from control.world_model import load_world_model, save_world_model
from mbrl_core import CEM, MPPI, TDMPC, GradMPC, RandomShooting, draws
from mbrl_core.testing import check_model, check_planner
from mbrl_core.types import Box, Model, Proposal, Rng, Transition
from tests.control.learners import replay_of_random_steps

SAC_TINY = SAC(hidden=(16,), layer_norm=True, batch_size=40, updates_per_step=2, random_frames=0)
MODEL_TINY = ModelRecipe(members=3, elites=2, hidden=(8,), epochs=2, fit_every=20)
TINY = MBPO(
    sac=SAC_TINY,
    model=MODEL_TINY,
    rollouts_per_step=5,
    rollout_every=4,
    rollout_length=(1, 3),
    rollout_frames=(0, 20),
    retain=8,
)
PENDULUM = "gym/Pendulum-v1"


def learner(env: str = PENDULUM, recipe: MBPO = TINY) -> MBPOLearner:
    return recipe.start(make_env(env), None, rng=draws.generator(2))


@pytest.fixture(scope="module")
def replay(tmp_path_factory: pytest.TempPathFactory) -> Replay:
    """Sixty random steps of the pendulum."""
    return replay_of_random_steps(PENDULUM, 60, tmp_path_factory.mktemp("pendulum"))


@pytest.fixture(scope="module")
def poles(tmp_path_factory: pytest.TempPathFactory) -> Replay:
    """Four times two hundred and fifty random steps of a pole that falls every twenty or so."""
    return replay_of_random_steps(
        "gym/InvertedPendulum-v5", 250, tmp_path_factory.mktemp("poles"), num_envs=4
    )


# ---------------------------------------------------------------------------------- the schedule


def test_rollouts_lengthen_along_a_line():
    recipe = MBPO(rollout_length=(1, 25), rollout_frames=(20_000, 100_000))
    lengths = [recipe.horizon(f) for f in (0, 20_000, 40_000, 60_000, 99_999, 100_000, 10**6)]
    assert lengths == [1, 1, 7, 13, 24, 25, 25]
    assert {MBPO().horizon(f) for f in (0, 50_000, 10**6)} == {1}


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"rollout_length": (3, 1)}, r"rollout_length must be \[k, k or more\], not \[3, 1\]"),
        ({"rollout_frames": (5, 5)}, r"rollout_frames must be \[f, more than f\], not \[5, 5\]"),
        ({"real_share": 1.5}, r"real_share must be in \[0, 1\], not 1.5"),
        ({"retain": 0}, "MBPO.retain must be a whole number of at least 1, not 0"),
        ({"sac": SAC(discount=0.0)}, "MBPO.sac.discount must be above 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], sentence: str):
    with pytest.raises(ValueError, match=sentence):
        MBPO(**settings)


# ------------------------------------------------------------------------------------- the model


def test_the_elites_are_the_members_that_the_holdout_finds_best(replay):
    model: LearnedModel = learner(recipe=replace(TINY, model=replace(MODEL_TINY, epochs=1))).model
    model.fit_if_due(replay)
    steps, held = replay.steps, model.split.holdout
    errors = []
    for e in range(3):
        one = model.ensemble.only(torch.tensor([e]))
        x = one.features(steps.obs[held], steps.action[held])
        change = torch.cat([steps.next_obs - steps.obs, steps.reward[:, None]], 1)
        mean, _ = one(x.unsqueeze(0))
        square = (mean[0] - one.targets(change[held])).square().mean(1)
        errors.append(square.log().mean().item())
    best = sorted(range(3), key=lambda e: errors[e])[:2]
    assert model.elites.tolist() == best
    for kept, every in zip(model.dynamics.weights, model.ensemble.weights, strict=True):
        assert torch.equal(kept, every[best])
    assert model.dynamics.members == 2 and not model.dynamics.terminates


def test_a_fit_is_due_when_enough_has_come(tmp_path):
    model, replay = learner().model, replay_of_random_steps(PENDULUM, 19, tmp_path)
    assert model.fit_if_due(replay) and model.split.rows == 19
    row = Steps(*(part[:1] for part in replay.steps))
    for rows in range(20, 60):
        replay.add(row, torch.zeros(1, dtype=torch.bool))
        assert bool(model.fit_if_due(replay)) == (rows in (39, 59))


def test_the_model_in_use_does_not_change_while_the_next_one_is_fitted(replay):
    model = learner().model
    model.fit_if_due(replay)
    used = model.dynamics
    before = {name: x.clone() for name, x in used.state_dict().items()}
    model.split = model.split._replace(rows=0)  # as if nothing had been seen
    model.fit_if_due(replay)
    assert model.dynamics is not used
    assert all(torch.equal(before[name], x) for name, x in used.state_dict().items())


def test_ends_of_episodes_are_learned_where_there_are_any(poles):
    mbpo = learner("gym/InvertedPendulum-v5")
    mbpo.model.fit_if_due(poles)
    dynamics, steps = mbpo.model.dynamics, poles.steps
    assert dynamics.terminates and steps.terminated.any()
    said = dynamics.terminated(steps.obs, steps.action, steps.next_obs)
    assert (said == steps.terminated).float().mean() > 0.98
    moved = dynamics.step(dynamics.root(steps.obs), steps.action, rng=draws.generator(0))
    ends = dynamics.terminated(steps.obs, steps.action, moved.state.obs)
    assert torch.equal(moved.discount, torch.where(ends, 0.0, 0.99))


def test_the_classifier_of_ends_knows_how_rare_they_are():
    # Ends and other steps overlap: where densities are p(x | end) and p(x | other), an end is the
    # likelier only where its prior times its density is the greater.
    rng = draws.generator(0)
    ended = torch.rand(20_000, generator=rng) < 0.05
    x = torch.randn(20_000, 1, generator=rng) + 2.0 * ended[:, None]
    nothing = torch.zeros(20_000, 0)
    model = Ending(1, 0, (16,), rng)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    assert not model(x, nothing, x).any()  # no end was seen yet
    fit_ending(model, optimizer, x, nothing, x, ended, rng=rng, updates=200)
    border = 1.0 + torch.log(torch.tensor(0.95 / 0.05)) / 2.0  # of two unit Gaussians 2 apart
    line = torch.linspace(0, 5, 501).unsqueeze(1)
    found = line[model(line, line[:, :0], line)].min()
    assert abs(found - border) < 0.3


# ---------------------------------------------------------------------------------- the rollouts


class Place(NamedTuple):
    """A state that is its observation."""

    obs: Tensor  # [R, 1]


@dataclass(frozen=True)
class Stairs:
    """Each action climbs so far; above 3 the episode ends. The policy climbs by one."""

    def step(self, state: Place, action: Tensor, *, rng: Rng) -> Transition:
        obs = state.obs + action
        return Transition(Place(obs), 10 * obs[:, 0], torch.where(obs[:, 0] > 3, 0.0, 0.9))

    def propose(self, state: Place, num: int, *, rng: Rng) -> Proposal:
        return Proposal(torch.ones(len(state.obs) * num, 1), torch.zeros(len(state.obs), num))


def test_rollouts_follow_each_other_and_stop_at_the_end():
    stairs, start = Stairs(), torch.tensor([[0.0], [2.0], [3.0]])
    steps = imagine(Model(stairs, stairs), Place(start), 3, rng=draws.generator(0))
    assert steps.obs[:, 0].tolist() == [0, 2, 3, 1, 3, 2]  # rows 2 and 1 end before the others
    assert torch.equal(steps.next_obs, steps.obs + 1) and torch.equal(
        steps.reward, 10 * steps.next_obs[:, 0]
    )
    assert steps.terminated.tolist() == [False, False, True, False, True, False]
    assert torch.equal(steps.action, torch.ones(6, 1))


def test_rollouts_start_where_the_replay_was_and_are_kept_for_a_while(replay):
    mbpo = learner()
    mbpo.model.fit_if_due(replay)
    known = replay.steps.obs
    mbpo.branch(replay)
    assert mbpo.imagined.obs.shape == (20, 3)  # 5 rollouts per step, every 4 steps, of length 1
    assert (mbpo.imagined.obs[:, None] == known).all(2).any(1).all()
    first = mbpo.imagined.obs.clone()
    mbpo.branch(replay)
    assert mbpo.imagined.obs.shape == (40, 3)
    assert torch.equal(mbpo.imagined.obs[:20], first)
    mbpo.branch(replay)
    assert mbpo.imagined.obs.shape == (40, 3)  # what 8 decisions imagine; the oldest are gone
    assert not torch.equal(mbpo.imagined.obs[:20], first)
    mbpo.schedule.decisions = 20  # rollouts are of length 3 by now, and so is what is kept
    mbpo.branch(replay)
    assert mbpo.imagined.obs.shape == (100, 3)
    latest = Steps(*(part[-60:].view(3, 20, -1) for part in mbpo.imagined))
    assert torch.equal(latest.obs[1:], latest.next_obs[:-1])


@pytest.mark.parametrize(("share", "real"), [(0.0, 0), (0.05, 2), (0.5, 20), (1.0, 40)])
def test_every_batch_has_its_real_share_exactly(share, real, replay):
    mbpo = learner(recipe=replace(TINY, real_share=share))
    mbpo.model.fit_if_due(replay)
    mbpo.branch(replay)
    mbpo.imagined = mbpo.imagined._replace(reward=torch.full((20,), 99.0))
    batches = list(mbpo.batches(replay, 5))
    assert [len(batch.reward) for batch in batches] == [40] * 5
    assert [int((batch.reward != 99).sum()) for batch in batches] == [real] * 5
    assert not share or not torch.equal(batches[0].obs, batches[1].obs)


# ------------------------------------------------------------------------------------ the learner


def test_updates_fits_and_rollouts_fall_due_by_decisions(replay):
    mbpo = learner()
    logged = mbpo.learn(replay, 3)
    assert "holdout_gmse" in logged and "updates" not in logged
    assert len(mbpo.imagined.reward) == 20
    logged = mbpo.learn(replay, 6)  # rollouts are due at decisions 4 and 8
    assert logged["updates"] == 12 and mbpo.schedule.decisions == 9
    assert len(mbpo.imagined.reward) == 40  # the last two of three batches of 20
    assert {"critic_loss", "temperature"} < set(logged) and "holdout_gmse" not in logged


def test_resumed_is_never_stopped(replay, tmp_path):
    straight, stopped, resumed = learner(), learner(), learner()
    for mbpo in (straight, stopped):
        mbpo.learn(replay, 3)
        mbpo.learn(replay, 4)
    checkpoints.save(tmp_path / "state.pt", {"kind": "state", **stopped.state_dict()})
    resumed.load_state_dict(checkpoints.load(tmp_path / "state.pt", "state"))
    for mbpo in (straight, resumed):  # the next call fits anew
        mbpo.model.split = mbpo.model.split._replace(rows=40)
    assert straight.learn(replay, 6) == resumed.learn(replay, 6)
    for one, other in zip(straight.imagined, resumed.imagined, strict=True):
        assert torch.equal(one, other)
    for one, other in zip(
        straight.sac.actor.parameters(), resumed.sac.actor.parameters(), strict=True
    ):
        assert torch.equal(one, other)


# ------------------------------------------------------------------------------- what it leaves


@pytest.mark.parametrize("env", [PENDULUM, "gym/InvertedPendulum-v5"])
def test_what_was_learned_is_a_world_for_every_planner(env, replay, poles, tmp_path):
    mbpo, data = learner(env), replay if env == PENDULUM else poles
    mbpo.learn(data, 1)
    mbpo.learn(data, 1)
    save_world_model(tmp_path / "model.pt", mbpo.world_model({"frames": 2}))
    world = load_world_model(tmp_path / "model.pt")
    obs = data.steps.obs[:3]
    model, root = world.model(), world.root(obs)
    assert model.dynamics.terminates == (env != PENDULUM)
    check_model(model, root)
    live = mbpo.world_model({}).model()
    assert torch.equal(live.value.value(root), model.value.value(root))
    one, other = (
        m.dynamics.step(root, data.steps.action[:3], rng=draws.generator(0)) for m in (live, model)
    )
    assert torch.equal(one.state.obs, other.state.obs)
    assert torch.equal(one.discount, other.discount)
    for planner in (
        CEM(horizon=2, samples=8, elites=3, iterations=2),
        MPPI(horizon=2, samples=8, iterations=1),
        TDMPC(horizon=2, samples=8, elites=3, policy_samples=2, iterations=1),
        RandomShooting(samples=2, horizon=2),
    ):
        check_planner(planner, model, root)
    smooth = world.model(propagation="mean")
    check_planner(GradMPC(horizon=2, samples=2, iterations=1, policy_samples=1), smooth, root)


def test_the_mode_of_a_policy_is_its_squashed_mean():
    space = Box(torch.tensor([-1.0]), torch.tensor([3.0]))
    actor = Actor(3, space, (8,), draws.generator(0))
    state = EnsembleState(torch.randn(5, 3, generator=draws.generator(1)), torch.zeros(5).long())
    assert torch.equal(ActorPolicy(actor, observed).mode(state), actor.mean(state.obs))
    rngs = [draws.generator(s) for s in range(5)]
    drawn = ActorPolicy(actor, observed).propose(state, 400, rng=rngs)
    assert drawn.log_prior.shape == (5, 400)
    mean, log_std = actor(state.obs)
    u = torch.atanh((drawn.actions - 1) / 2).view(5, 400)
    torch.testing.assert_close(u.mean(1), mean[:, 0], rtol=0, atol=0.3)
    torch.testing.assert_close(u.std(1).log(), log_std[:, 0], rtol=0, atol=0.15)
