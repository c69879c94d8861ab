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

from mbrl_core.planners import game, selection, tree

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
    run: Callable[..., int]  # `search_game`


def game_loops() -> GameLoops:
    """The loops for any game and selection, none of them cached."""
    walk, grow = numba.njit(selection.walk, **_OPTIONS), numba.njit(tree.grow, **_OPTIONS)
    return GameLoops(
        step_all=numba.njit(game.step_all, **_OPTIONS),
        prior_all=numba.njit(game.prior_all, **_OPTIONS),
        worth_all=numba.njit(game.worth_all, **_OPTIONS),
        run=numba.njit(game.search_game(walk, grow), **_OPTIONS),
    )


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
    *(selection.gumbel_scores, selection.begun_visits, selection.total_visits),
    *(selection.log_visits, selection.to_probabilities, selection.open_node),
    *(selection.set_priors, selection.descend, selection.choose, selection.is_shown),
    *(selection.begin, selection.answer, selection.list_moves),
    *(game.tell_priors, game.make_moves),
):
    register_jitable(_helper)


def _call_by_type(function: Callable[..., Any], method: str) -> None:
    """In compiled code `function(x, ...)` is `x.method(...)`, found by the type of the tuple x."""

    @overload(function, strict=False)
    def find(x: Any, *arguments: Any) -> Callable[..., Any]:
        return getattr(x.instance_class, method)


_call_by_type(selection.transform, "fill")
_call_by_type(selection.score, "score")
_call_by_type(selection.decide, "decide")
_call_by_type(selection.target, "target")
_call_by_type(game.advance, "advance")
_call_by_type(game.prior, "prior")
_call_by_type(game.worth, "worth")
