"""TD-MPC2: the published numbers, laws of its targets and updates, planning with it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from control import checkpoints, tdmpc2_checkpoints
from control.agents.tdmpc2 import TDMPC2, Batch, TDMPC2Learner, Updates, unit_actions
from control.envs import make_env
from control.finite import NotFiniteError
from control.latent import LatentModel, LatentWorld, Size, discount_for
from control.networks import apply_heads
from mbrl_core import TDMPC, BeamSearch, Box, CategoricalCEM, Discrete, generator, reset
from mbrl_core.testing import check_model, check_planner
from tests.control.learners import replay_of_random_steps
from tests.golden import golden_files

D, A = 4, 2
TINY = Size(encoder=16, hidden=16, latent=16, simnorm=4, heads=5, task=3, bins=21)
BOX = Box(torch.tensor([-2.0, 0.0]), torch.tensor([2.0, 1.0]))


def scrambled(world: LatentWorld, seed: int = 0, noise: float = 0.2) -> LatentWorld:
    """The same networks with nothing left at zero."""
    with torch.no_grad():
        for number, parameter in enumerate(world.parameters()):
            draw = torch.randn(parameter.shape, generator=generator(1000 * seed + number))
            parameter += noise * draw
    return world


def a_world(**more: Any) -> LatentWorld:
    return scrambled(LatentWorld(D, A, size=TINY, rng=generator(0), **more))


def frozen(**more: Any) -> LatentWorld:
    """A world to plan with, in which about half of the states end an episode, if any do."""
    world = a_world(**more).requires_grad_(False)
    if world.ended is not None:
        z = world.encode(torch.randn(200, D, generator=generator(7)))
        world.ended[-1].bias -= world.ended(world.next(z, torch.zeros(200, A))).median()
    return world


def a_batch(world: LatentWorld, steps: int = 3, number: int = 8, seed: int = 0) -> Batch:
    rng = generator(seed)
    action = torch.rand(steps, number, A, generator=rng) * 2 - 1
    if world.discrete:
        action = unit_actions(torch.randint(A, (steps, number), generator=rng), Discrete(A))
    tasks = None
    if world.tasks is not None:
        tasks = torch.randint(len(world.tasks), (number,), generator=rng)
        action = action * world.action_mask[tasks]
    return Batch(
        obs=torch.randn(steps + 1, number, D, generator=rng),
        action=action,
        reward=torch.randn(steps, number, generator=rng),
        terminated=torch.zeros(steps, number),
        discount=torch.tensor(0.9),
        task=tasks,
    )


def an_update(world: LatentWorld, **more: Any) -> Updates:
    return Updates(TDMPC2(size=TINY, **more), world, generator(3))


# The published numbers


@pytest.mark.parametrize("path", golden_files("tdmpc2_single_weights.pt"))
def test_published_weights_give_the_published_numbers(path):
    world = tdmpc2_checkpoints.build(tdmpc2_checkpoints.weights_of(checkpoints.read(path)))
    given = torch.load(path.with_name("tdmpc2_single_io.pt"), weights_only=True)
    z = world.encode(given["obs"])
    both = torch.cat([z, given["action"]], 1)
    actor = world.actor(z)
    got = {
        "latent": z,
        "next_latent": world.next(z, given["action"]),
        "reward": world.code.decode(world.reward(both)),
        "q": world.code.decode(world.q(world.values.layers(), z, given["action"])),
        "policy_mean": actor.actions(None)[0],
        "policy_log_std": actor.log_std,
    }
    for name, numbers in got.items():
        torch.testing.assert_close(numbers, given[name], rtol=1e-5, atol=1e-5, msg=name)


def published(world: LatentWorld, *, numbered: bool) -> dict[str, Tensor]:
    """The state dict of a world in one of the two published layouts."""
    own, theirs = world.state_dict(), {}
    for old, part in tdmpc2_checkpoints.PARTS.items():
        for name, x in own.items():
            if name.startswith(f"{part}."):
                theirs[old + name.removeprefix(part).replace(".norm.", ".ln.")] = x
    for number, layer in enumerate(world.values.layers()):
        tensors = [layer.weight, layer.bias.squeeze(1)]
        if layer.scale is not None and layer.shift is not None:
            tensors += [layer.scale.squeeze(1), layer.shift.squeeze(1)]
        for place, x in enumerate(tensors):
            name = tdmpc2_checkpoints.NAMES[place]
            key = f"{4 * number + place}" if numbered else f"{number}.{name}"
            theirs[f"_Qs.params.{key}"] = x.detach()
    if world.tasks is not None:
        theirs["_task_emb.weight"] = world.tasks.detach()
    theirs["log_std_min"] = torch.tensor(-10)
    return theirs


@pytest.mark.parametrize("numbered", [True, False])
@pytest.mark.parametrize("tasks", [(), (2, 1, 2)])
@pytest.mark.parametrize("episodic", [True, False])
def test_both_published_layouts_are_read_with_sizes_from_the_tensors(numbered, tasks, episodic):
    size = Size(encoder=24, encoder_layers=2, hidden=12, latent=16, heads=3)
    world = scrambled(LatentWorld(D, A, size=size, episodic=episodic, task_actions=tasks))
    read = tdmpc2_checkpoints.build(published(world, numbered=numbered))
    if tasks:  # embeddings are kept within the unit ball
        world.tasks.data = world.tasks.data.renorm(2, 0, 1.0)
    assert read.arguments()["size"] == world.arguments()["size"]
    assert (read.observation_dim, read.action_dim, read.episodic) == (D, A, episodic)
    task = torch.tensor([1, 0, 2]) if tasks else None
    z, a = torch.randn(3, 16), torch.rand(3, A)
    torch.testing.assert_close(read.next(z, a, task), world.next(z, a, task))
    heads = world.values.layers(), read.values.layers()
    torch.testing.assert_close(*(read.q(layers, z, a, task) for layers in heads))


@pytest.mark.parametrize(
    ("name", "tensor"), [("_reward.2.bias", torch.tensor(0.0)), ("_task_emb.weight", torch.ones(3))]
)
def test_tensors_of_a_wrong_shape_are_told_in_one_sentence(name, tensor):
    weights = published(LatentWorld(D, A, size=TINY), numbered=True)
    with pytest.raises(ValueError, match="this is no TD-MPC2 model on states"):
        tdmpc2_checkpoints.build(weights | {name: tensor})


def test_tasks_of_the_multitask_models_are_found_by_name():
    world = LatentWorld(24, 6, size=TINY, task_actions=[6] * 30)
    assert tdmpc2_checkpoints.task_number(world, "dmc/ball-in-cup-catch") == 12
    assert tdmpc2_checkpoints.task_number(world, "dmc/cup-catch") == 12
    assert tdmpc2_checkpoints.task_number(world, "dmc/hopper-hop") == 18
    with pytest.raises(ValueError, match="know no dmc/dog-run"):
        tdmpc2_checkpoints.task_number(world, "dmc/dog-run")
    assert tdmpc2_checkpoints.task_number(a_world(), "dmc/dog-run") is None


def test_discounts_are_those_of_the_published_rule():
    assert discount_for(1000, 2) == pytest.approx(0.99)
    assert discount_for(1000, 8) == pytest.approx(0.96)
    assert discount_for(10, 1) == 0.95 and discount_for(10**6, 1) == discount_for(None, 1) == 0.995


# Targets


def test_the_target_is_the_least_of_two_and_stops_where_an_episode_ended():
    world = a_world()
    updates, batch = an_update(world), a_batch(world)
    batch.terminated[-1, :3] = 1
    twin = copy.deepcopy(updates)  # with the same generator
    target, states = updates.targets(batch)
    assert not target.requires_grad and not states.requires_grad
    torch.testing.assert_close(states, world.encode(batch.obs[1:]))
    noise = world.policy_noise(24, twin.rng)
    pair = twin.two_heads()
    assert len(pair.unique()) == 2
    z = states.flatten(0, 1)
    action, _ = world.actor(z).actions(noise)
    every = world.code.decode(apply_heads(updates.target.layers(), torch.cat([z, action], 1)))
    value = every[pair].amin(0).view(3, 8)
    expected = batch.reward + 0.9 * value
    expected[-1, :3] = batch.reward[-1, :3]
    torch.testing.assert_close(target, expected)
    assert (every.amin(0) < value.flatten()).any()  # it is not the least of all five


def test_targets_and_policy_of_discrete_actions_are_expectations():
    world = a_world(discrete=True)
    updates, batch = an_update(world), a_batch(world)
    z = world.encode(batch.obs[0])
    heads = world.values.layers((1, 4))
    value, entropy = world.expected(heads, z, None)
    every = [
        world.code.decode(world.q(heads, z, torch.eye(A)[[a] * len(z)])).mean(0) for a in range(A)
    ]
    p = world.actor(z).logits.softmax(-1)
    torch.testing.assert_close(value, (p * torch.stack(every, 1)).sum(1))
    expected = torch.distributions.Categorical(p).entropy()
    torch.testing.assert_close(entropy, expected)
    target, _ = updates.targets(batch)
    assert target.shape == (3, 8)


def test_entropy_is_that_of_the_gaussian_times_the_dimensions():
    world = a_world()
    actor = world.actor(world.encode(torch.randn(5, D)))
    gaussian = torch.distributions.Normal(actor.mean, actor.log_std.exp())
    torch.testing.assert_close(actor.entropy(), A * gaussian.entropy().sum(1))


@pytest.mark.parametrize("terminated, value", [(1.0, 1.0), (0.0, 2.0)])
def test_values_become_the_discounted_sum_of_rewards(terminated, value):
    """A reward of 1 at every step is worth 1 where episodes end, and 1 / (1 - 0.5) where not."""
    size = Size(encoder=8, hidden=16, latent=8, simnorm=4, heads=2)
    world = LatentWorld(D, A, size=size, rng=generator(0))
    recipe = TDMPC2(size=size, learning_rate=1e-2, target_rate=0.2, horizon=1, dropout=0.0)
    updates = Updates(recipe, world, generator(1))
    batch = a_batch(world, steps=1, number=8)
    ones = torch.ones(1, 8)
    batch = batch._replace(reward=ones, terminated=terminated * ones, discount=torch.tensor(0.5))
    for _ in range(150):
        updates.update(batch)
    z = world.encode(batch.obs[0])
    q, _ = world.expected(world.values.layers(), z, None)
    assert abs(q.mean() - value) < 0.1


# Updates


def grads(world: LatentWorld) -> dict[str, bool]:
    """Which networks a backward pass has reached."""
    parts = ("encoder", "dynamics", "reward", "ended", "policy", "values")
    return {
        name: any(p.grad is not None and bool(p.grad.any()) for p in part.parameters())
        for name in parts
        if (part := getattr(world, name)) is not None
    }


def test_the_policy_is_improved_through_values_that_stay_as_they_are():
    world = a_world(episodic=True)
    updates = an_update(world)
    states = world.encode(torch.randn(3, 8, D)).detach()
    noise = world.policy_noise(24, updates.rng)
    updates.policy_loss(states, noise, torch.tensor([0, 3]), None)[0].backward()
    reached = grads(world)
    assert [name for name, is_reached in reached.items() if is_reached] == ["policy"]


def test_the_model_loss_reaches_all_but_the_policy():
    world = a_world(episodic=True)
    updates, batch = an_update(world), a_batch(world)
    targets, states = updates.targets(batch)
    loss = updates.model_loss(batch, targets, states, None)
    assert not loss.states.requires_grad
    loss.total.backward()
    assert [name for name, is_reached in grads(world).items() if not is_reached] == ["policy"]


def test_the_loss_is_its_published_sum():
    world = a_world(episodic=True)
    updates, batch = an_update(world, rho=0.7), a_batch(world)
    targets, states = updates.targets(batch)
    loss = updates.model_loss(batch, targets, states, None)
    z, parts = world.encode(batch.obs[0]), torch.zeros(3)
    ends = []
    for t in range(3):
        action = batch.action[t]
        logits = world.reward(torch.cat([z, action], 1))
        parts[1] += 0.7**t * world.code.loss(logits, batch.reward[t]).mean() / 3
        for head in range(5):
            q = world.q(world.values.layers([head]), z, action)[0]
            parts[2] += 0.7**t * world.code.loss(q, targets[t]).mean() / 15
        z = world.next(z, action)
        parts[0] += 0.7**t * (z - world.encode(batch.obs[t + 1])).square().mean() / 3
        ends.append(world.ended(z).squeeze(1))
    end = torch.nn.functional.softplus(torch.stack(ends)).mean()  # no episode ended
    got = torch.stack([loss.consistency, loss.reward, loss.value, loss.end])
    torch.testing.assert_close(got, torch.cat([parts, end.unsqueeze(0)]))
    torch.testing.assert_close(loss.total, (got * torch.tensor([20, 0.1, 0.1, 1])).sum())


def test_an_update_moves_every_network_and_lets_the_target_follow():
    world = a_world(episodic=True)
    updates = an_update(world)
    before, target = copy.deepcopy(world), copy.deepcopy(updates.target)
    updates.update(a_batch(world))
    for name in ("encoder", "dynamics", "reward", "ended", "policy", "values"):
        parts = (getattr(each, name).state_dict() for each in (world, before))
        now, was = (torch.cat([x.flatten() for x in part.values()]) for part in parts)
        assert not torch.equal(now, was), name
    goal = world.values.state_dict()
    for name, now in updates.target.state_dict().items():
        was = target.state_dict()[name]
        torch.testing.assert_close(now, was + 0.01 * (goal[name] - was))


def test_the_scale_follows_the_range_of_q_and_stays_at_least_1():
    updates = an_update(a_world())
    q = torch.linspace(0, 100, 101)
    updates._follow_scale(q)
    torch.testing.assert_close(updates.scale, torch.tensor(1 + 0.01 * (90 - 1)))
    for _ in range(3):
        updates.scale.fill_(1.0)
        updates._follow_scale(q / 1e3)
    assert updates.scale == 1


def test_a_loss_that_is_not_finite_is_found_before_it_is_applied():
    world = a_world()
    updates, batch = an_update(world), a_batch(world)
    before = copy.deepcopy(world.state_dict())
    batch.reward[0, 0] = torch.nan
    with pytest.raises(NotFiniteError, match="world model's loss is nan") as caught:
        updates.update(batch)
    assert "reward" in caught.value.batch
    assert all(torch.equal(x, before[name]) for name, x in world.state_dict().items())


# Planning


MODELS = {
    "box": LatentModel(frozen(), BOX, discount=0.9, heads=(0, 3)),
    "episodic": LatentModel(frozen(episodic=True), BOX, discount=0.9),
    "discrete": LatentModel(frozen(discrete=True, episodic=True), Discrete(A), discount=0.9),
    "task": LatentModel(
        frozen(task_actions=[2, 1]), Box(BOX.low[:1], BOX.high[:1]), discount=0.9, task=1
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_model_keeps_the_contract_of_models(name):
    view = MODELS[name]
    model, state = view.model(), view.root(torch.randn(5, D, generator=generator(0)))
    check_model(model, state)
    if name == "discrete":
        check_planner(BeamSearch(width=3, expand=2, depth=2), model, state)
    else:
        check_planner(
            TDMPC(horizon=2, samples=12, elites=4, policy_samples=3, iterations=2), model, state
        )


def test_episodes_end_in_the_model_where_an_end_is_the_likelier():
    view = MODELS["episodic"]
    state = view.root(torch.randn(200, D, generator=generator(0)))
    moved = view.step(state, torch.zeros(200, A), rng=generator(0))
    ended = view.world.ended(moved.state).squeeze(1) > 0
    assert 0 < ended.sum() < 200
    torch.testing.assert_close(moved.discount, torch.where(ended, 0.0, 0.9))


def test_actions_are_those_of_the_environment():
    view = MODELS["box"]
    state = view.root(torch.randn(50, D, generator=generator(0)))
    drawn = view.propose(state, 40, rng=generator(1)).actions
    assert (drawn >= BOX.low).all() and (drawn <= BOX.high).all()
    assert (drawn[:, 0] > 1.5).any() and (drawn[:, 1] < 0.2).any()
    centre = torch.tensor([0.0, 0.5]).expand(50, A)
    expected = view.world.next(state, torch.zeros(50, A))
    torch.testing.assert_close(view.step(state, centre, rng=generator(0)).state, expected)
    edge = view.world.next(state, torch.tensor([1.0, -1.0]).expand(50, A))
    moved = view.step(state, torch.tensor([2.0, 0.0]).expand(50, A), rng=generator(0))
    torch.testing.assert_close(moved.state, edge)


def test_only_the_heads_chosen_are_asked():
    view = MODELS["box"]
    assert [len(layer.weight) for layer in view.heads] == [2, 2, 2]
    z = view.root(torch.randn(6, D))
    action, _ = view.world.actor(z).actions(None)
    q = view.world.code.decode(view.world.q(view.world.values.layers(), z, action))
    torch.testing.assert_close(view.value(z), q[[0, 3]].mean(0))


def test_half_precision_changes_little():
    world = MODELS["box"].world
    exact, half = (
        LatentModel(world, BOX, discount=0.9, half_precision=half).model() for half in (False, True)
    )
    state = MODELS["box"].root(torch.randn(20, D))
    a, b = (m.dynamics.step(state, torch.ones(20, A), rng=generator(0)) for m in (exact, half))
    assert b.state.dtype == b.reward.dtype == torch.float32
    torch.testing.assert_close(a.state, b.state, rtol=0.1, atol=0.02)
    torch.testing.assert_close(
        exact.value.value(state), half.value.value(state), rtol=0.2, atol=0.2
    )


# Learning


def learner_of(env: str, **more: Any) -> TDMPC2Learner:
    world, rng = make_env(env, 2), generator(5)
    recipe = TDMPC2(size=TINY, batch_size=16, random_frames=0, **more)
    space = world.action_space
    planner = (
        CategoricalCEM(horizon=3, samples=8, iterations=2, elites=2)
        if isinstance(space, Discrete)
        else TDMPC(horizon=3, samples=16, elites=4, policy_samples=2, iterations=2)
    )
    return recipe.start(world, planner, rng=rng)


@pytest.mark.parametrize("env", ["gym/Pendulum-v1", "gym/CartPole-v1"])
def test_a_learner_restored_goes_on_as_one_never_stopped(env, tmp_path):
    replay = replay_of_random_steps(env, 40, tmp_path / "replay", num_envs=2)
    straight = learner_of(env)
    first = straight.learn(replay, 10)
    assert first["updates"] == 10 and straight.learn(replay, 0) == {}
    checkpoints.save(tmp_path / "state.pt", {"kind": "test", "state": straight.state_dict()})
    rng = straight.rng.get_state()
    resumed = learner_of(env)
    resumed.load_state_dict(checkpoints.load(tmp_path / "state.pt", "test")["state"])
    resumed.rng.set_state(rng)
    obs = replay.sequences(2, 1, generator(0)).obs[0]
    for learner in (straight, resumed):
        learner.learn(replay, 3)
    one, other = straight.state_dict(), resumed.state_dict()
    for name, x in one["updates"]["world"].items():
        assert torch.equal(x, other["updates"]["world"][name]), name
    acts = [
        learner.act(obs, None, explore=True, rng=generator(1))[0] for learner in (straight, resumed)
    ]
    assert torch.equal(*acts)


def test_updates_come_at_their_rate(tmp_path):
    replay = replay_of_random_steps("gym/Pendulum-v1", 20, tmp_path, num_envs=2)
    learner = learner_of("gym/Pendulum-v1", updates_per_step=0.25)
    done = [learner.learn(replay, 2).get("updates", 0) for _ in range(8)]
    assert done == [0, 1, 0, 1, 0, 1, 0, 1]


def test_nothing_is_learned_before_an_episode_is_long_enough(tmp_path):
    replay = replay_of_random_steps("gym/Pendulum-v1", 2, tmp_path)
    learner = learner_of("gym/Pendulum-v1")
    assert learner.learn(replay, 2) == {}


@pytest.mark.parametrize("env", ["gym/Pendulum-v1", "gym/CartPole-v1"])
def test_acting_explores_only_when_told_and_remembers_only_in_the_carry(env):
    learner = learner_of(env)
    scrambled(learner.updates.world)
    obs = make_env(env, 2).reset([0, 1])

    def act(explore: bool, carry: Any = None) -> Tensor:
        return learner.act(obs, carry, explore=explore, rng=generator(1))[0]

    assert torch.equal(act(False), act(False)) and torch.equal(act(True), act(True))
    if env.startswith("gym/Pendulum"):
        assert not torch.equal(act(False), act(True))
        _, carry = learner.act(obs, None, explore=True, rng=generator(1))
        fresh = reset(carry, torch.tensor([True, True]))
        assert torch.equal(act(True, fresh), act(True))


def test_sizes_are_published_ones_by_name():
    counts = {}
    for name in ("1M", "5M"):
        recipe = TDMPC2(size=name)
        env = make_env("dmc/cartpole-swingup")
        learner = recipe.start(env, None, rng=generator(0))
        counts[name] = sum(p.numel() for p in learner.updates.world.parameters())
    assert 0.8e6 < counts["1M"] < 1.3e6 and 4.5e6 < counts["5M"] < 5.5e6
    with pytest.raises(ValueError, match="the sizes are small, cpu, 1M, 5M"):
        TDMPC2(size="7M")


def test_draws_come_from_the_generators_alone(tmp_path):
    replay = replay_of_random_steps("gym/Pendulum-v1", 20, tmp_path, num_envs=2)
    outcomes = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        learner = learner_of("gym/Pendulum-v1")
        learner.learn(replay, 3)
        outcomes.append(learner.updates.world.policy[-1].weight)
    assert torch.equal(*outcomes)
