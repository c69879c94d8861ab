"""The loops of `tree.py` and `selection.py`, compiled by numba at the first search.

What is compiled is kept on disk beside those files (or in `NUMBA_CACHE_DIR`), so it is paid for
once per machine: some seconds per selection and precision. A rule alone is plain Python and can be
stepped through as such.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numba
from numba.extending import overload, register_jitable

from mbrl_core.planners import game, mlp, selection, tree

_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}


class Loops(NamedTuple):
    """The compiled loops of a search; see the functions of the same names."""

    start: Callable[..., Any]
    walk: Callable[..., Any]
    grow: Callable[..., Any]
    conclude: Callable[..., Any]
    principal: Callable[..., Any]
    first_steps: Callable[..., Any]
    cut: Callable[..., Any]


class GameLoops(NamedTuple):
    """The compiled loops over a game; see the functions of the same names."""

    step_all: Callable[..., None]
    prior_all: Callable[..., None]
    worth_all: Callable[..., None]
    search_game: Callable[..., int]


def game_loops() -> GameLoops:
    """The loops for any game and selection, none of them cached."""
    return GameLoops(*(numba.njit(getattr(game, name), **_OPTIONS) for name in GameLoops._fields))


def loops_for(rule: Any) -> Loops:
    """The loops for a selection."""
    return _loops(all(_is_ours(part) for part in (rule, *rule) if isinstance(part, tuple)))


def _is_ours(rule: Any) -> bool:
    return type(rule).__module__ == selection.__name__


@lru_cache
def _loops(cached: bool) -> Loops:
    """numba knows a cached loop to be stale by the file it is written in alone. The rules it ships
    with share one file with the walk that calls them; the walk with a rule of another file is
    compiled anew in every process."""
    loops = {}
    for name in Loops._fields:
        ruleless = hasattr(tree, name)
        loop = getattr(tree if ruleless else selection, name)
        loops[name] = numba.njit(loop, cache=cached or ruleless, **_OPTIONS)
    return Loops(**loops)


for _helper in (
    *(tree.add, tree.back_up, tree.release, tree.empty),
    *(selection.mixed_value, selection.due_at_root, selection.due_visits),
    *(selection.at_first, selection.halving, selection.show),
    *(selection.gumbel_scores, selection.begun_visits, selection.total_visits),
    *(selection.log_visits, selection.to_probabilities, selection.open_node),
    *(selection.set_priors, selection.descend, selection.choose),
    *(selection.begin, selection.answer, selection.list_moves, mlp.in_sixteens),
):
    register_jitable(forceinline=True)(_helper)

for _loop in (selection.walk, tree.grow, game.tell_priors, game.make_moves, game.search_tree):
    register_jitable(_loop)

# A product and a sum may become one operation, rounded once.
for _layer in (mlp.multiply, mlp.normalise, mlp.activate, mlp.exponentials, mlp.run_mlp):
    register_jitable(fastmath={"contract", "nsz"})(_layer)


def _call_by_type(
    function: Callable[..., Any], method: str, otherwise: Callable[..., Any] | None = None
) -> None:
    """In compiled code `function(x, ...)` is `x.method(...)`, found by the type of the tuple x, or
    `otherwise(x, ...)` where it has none."""

    @overload(function, strict=False, jit_options={"forceinline": True})
    def find(x: Any, *arguments: Any) -> Callable[..., Any]:
        return getattr(x.instance_class, method, otherwise)  # type: ignore[return-value]


_call_by_type(selection.transform, "fill")
_call_by_type(selection.score, "score")
_call_by_type(selection.together, "together", selection.one_by_one)
_call_by_type(selection.decide, "decide")
_call_by_type(selection.target, "target")
_call_by_type(game.advance, "advance")
_call_by_type(game.prior, "prior")
_call_by_type(game.worth, "worth")
