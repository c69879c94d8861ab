"""MuZero and Gumbel search of mctx, compiled by JAX."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import mctx
import numpy as np

from evals.bench import numbers
from evals.bench.numbers import GAMMA, STATE
from evals.bench.worker import Job, serve


def prepare(settings: Mapping[str, Any]) -> Job:
    """One search for all roots, without noise, so that both sides do the same work."""
    world = _network if settings["world"].startswith("network") else _table
    root, recurrent = world(settings["actions"], settings["roots"], settings.get("width", 0))
    policy = {
        "PUCT": partial(mctx.muzero_policy, dirichlet_fraction=0.0),
        "Gumbel": partial(mctx.gumbel_muzero_policy, gumbel_scale=0.0),
    }[settings["selection"]]

    def search(root: mctx.RootFnOutput) -> Any:
        found = policy((), jax.random.PRNGKey(0), root, recurrent, settings["simulations"])
        if settings["selection"] == "Gumbel":
            return found.action
        return found.search_tree.summary().visit_counts.argmax(1)

    compiled = jax.jit(search)
    return Job(lambda: compiled(root).block_until_ready(), lambda found: np.asarray(found).tolist())


def _table(actions: int, roots: int, width: int) -> tuple[mctx.RootFnOutput, Callable[..., Any]]:
    following, reward, logits, value = map(jnp.asarray, numbers.table(actions))
    start = jnp.asarray(numbers.places(roots))

    def recurrent(params: Any, key: Any, action: Any, place: Any) -> Any:
        moved = following[place, action]
        earned = reward[place, action]
        return mctx.RecurrentFnOutput(
            reward=earned,
            discount=jnp.full_like(earned, GAMMA),
            prior_logits=logits[moved],
            value=value[moved],
        ), moved

    return mctx.RootFnOutput(
        prior_logits=logits[start], value=value[start], embedding=start
    ), recurrent


def _network(actions: int, roots: int, width: int) -> tuple[mctx.RootFnOutput, Callable[..., Any]]:
    layers = [tuple(map(jnp.asarray, layer)) for layer in numbers.game_layers(actions, width)]
    start = jnp.asarray(numbers.states(roots))

    def recurrent(params: Any, key: Any, action: Any, state: Any) -> Any:
        out = jnp.concatenate([state, jax.nn.one_hot(action, actions)], 1)
        for i, (weight, bias) in enumerate(layers):
            out = (jax.nn.silu(out) if i else out) @ weight + bias
        return mctx.RecurrentFnOutput(
            reward=out[:, STATE],
            discount=jnp.full_like(out[:, 0], GAMMA),
            prior_logits=out[:, STATE + 2 :],
            value=out[:, STATE + 1],
        ), state + out[:, :STATE]

    root = mctx.RootFnOutput(
        prior_logits=jnp.asarray(numbers.root_logits(roots, actions)),
        value=jnp.zeros(roots),
        embedding=start,
    )
    return root, recurrent


if __name__ == "__main__":
    serve(prepare)
