"""Look at a search tree: as a page to fold and search, and as a graph for networkx.

`python examples/look_at_a_tree.py` writes the page to runs/tree.html.
"""

import networkx
import torch

from mbrl_core import MCTS, ListedActions, Model, Rng, Transition, generator, save_html, to_networkx


class Walk:
    """States are places on a line; it pays to be where the sine is high."""

    def step(self, state: torch.Tensor, action: torch.Tensor, *, rng: Rng) -> Transition:
        """A step of the length that the action says."""
        state = state + action
        return Transition(state, state.sin()[:, 0], torch.full((len(state),), 0.9))


model = Model(Walk(), ListedActions(torch.tensor([[-0.5], [0.0], [0.5]])))
plan, _ = MCTS(simulations=200, candidates=3)(model, torch.zeros(1, 1), rng=generator(0))
page = save_html(plan, "runs/tree.html", describe=lambda state, step: f"at {state.item():+.1f}")
graph = to_networkx(plan)
print(f"{page}: {len(graph)} nodes, {networkx.dag_longest_path_length(graph)} deep")
