"""The models of a run: what is loaded, how large it is, and how two of them share a card."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from evals.runner import Claim
from reasoning.embedded import folder_of
from reasoning.engines import Engine, EngineKind, load_engine
from reasoning.scorers import JUDGES, ReadingScorer, load_prm

CARD = 0.9  # of a card's memory, taken by both models together
CACHE = 2e9  # bytes that a model is to have besides its weights, at the least


class Loaded(NamedTuple):
    """A model and what runs it."""

    name: str
    engine: EngineKind
    options: Mapping[str, Any]


def side_by_side(
    model: str,
    engine: EngineKind,
    engine_options: Mapping[str, Any] | None,
    scorer: str | None,
    scorer_engine: EngineKind | None,
    scorer_options: Mapping[str, Any] | None,
    gpus: float = 0,
) -> tuple[Loaded, Loaded | None]:
    """The language model and its scorer, where there is one, with room for each other.

    gpus: graphics cards that they have; a part of one is divided, 0 does not say.
    """
    lm = Loaded(model, engine, dict(engine_options or {}))
    part = min(gpus, 1.0) or 1.0
    if scorer is None:
        return _limited(lm, part), None
    beside = scorer_engine or ("vllm" if engine == "vllm" else "transformers")
    if beside in ("transformers", "vllm"):
        check_scorer(scorer)
    return share_card(lm, Loaded(scorer, beside, dict(scorer_options or {})), part)


def check_scorer(name: str) -> None:
    """Raise ValueError on what is neither a judge nor a folder, and can be no hub name."""
    if name in JUDGES or name == "embedded" or "/" in name or (name and Path(name).exists()):
        return
    near = get_close_matches(name, [*JUDGES, "embedded"], n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ValueError(
        f"{name!r} is no scorer: {hint}Judges are {', '.join(JUDGES)}; a reward model is embedded, "
        "a folder or a hub name (owner/name); null is none"
    )


def share_card(lm: Loaded, scorer: Loaded, part: float = 1.0) -> tuple[Loaded, Loaded]:
    """The same two, each of which leaves the other room in the memory of a graphics card, or in a
    `part` of it.

    vLLM takes nine tenths of it, however small its model. Here each gets a share in proportion to
    its weights, at two bytes a parameter, and `CACHE`; equal ones where a size is not known.
    Whoever knows better says so by `gpu_memory_utilization` in the options. Models on different
    cards share none.
    """
    if scorer.name in JUDGES:
        return _limited(lm, part), scorer
    if "vllm" not in (lm.engine, scorer.engine) or not cards_of(lm) & cards_of(scorer):
        return _limited(lm, part), _limited(scorer, part)
    sizes = [
        count_parameters(folder_of(lm.name, "lm")),
        count_parameters(folder_of(scorer.name, "scorer")),
    ]
    needs = [1.0 if None in sizes else CACHE + 2 * (size or 0) for size in sizes]
    one, other = (
        _limited(which, part * need / sum(needs))
        for which, need in zip((lm, scorer), needs, strict=True)
    )
    return one, other


def _limited(which: Loaded, part: float) -> Loaded:
    """A model that takes a part of a card where it would take all."""
    if which.engine != "vllm" or part == 1:
        return which
    return which._replace(options={"gpu_memory_utilization": CARD * part, **which.options})


def cards_of(which: Loaded) -> frozenset[int | str]:
    """The graphics cards, by number, that a model is on where there are any."""
    if which.engine == "vllm":
        beside = (which.options.get(f"{way}_parallel_size", 1) for way in ("tensor", "pipeline"))
        return frozenset(which.options.get("device_ids") or range(math.prod(beside)))
    if which.engine == "transformers":
        kind, _, number = str(which.options.get("device") or "cuda").partition(":")
        return frozenset([int(number or 0)] if kind == "cuda" else [])
    return frozenset()


def claim_of(lm: Loaded, scorer: Loaded | None) -> Claim:
    """What a worker with these models takes of the graphics cards."""
    both = [lm] if scorer is None or scorer.name in JUDGES else [lm, scorer]
    cards = frozenset[int | str]().union(*map(cards_of, both))
    return Claim(len(cards), any(which.engine == "vllm" for which in both))


def load_lm(lm: Loaded) -> Engine:
    """The engine of a language model; `embedded` is the package's own. Raises what `load_engine`
    raises."""
    return load_engine(folder_of(lm.name, "lm"), lm.engine, lm.options)


def load_scorer(scorer: Loaded) -> ReadingScorer:
    """A reward model; `embedded` is the package's own. Raises what `load_prm` raises."""
    return load_prm(folder_of(scorer.name, "scorer"), scorer.engine, scorer.options)


def count_parameters(name: str | Path) -> int | None:
    """Of a model in the hub's format; None where its configuration cannot be had or built, as for
    a model behind a server."""
    import torch
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    for family in (AutoModelForCausalLM, AutoModel):
        with contextlib.suppress(ValueError, OSError), torch.device("meta"):
            return int(family.from_config(AutoConfig.from_pretrained(name)).num_parameters())
    return None
