"""Scorers by name: what a checkpoint is follows from its own files."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, get_args

from reasoning.engines.base import Engine
from reasoning.engines.load import EngineKind, load_engine, naming_options
from reasoning.engines.vocabulary import unavailable
from reasoning.scorers.base import ReadingScorer
from reasoning.scorers.families import FAMILIES, WITH_HEAD, Family

SUPPORTED = (
    "the embedded scorer's format (whose config.json says scorer_family: steps), Math-Shepherd, "
    "RLHFlow's PRMs, Qwen2.5-Math-PRM, Skywork-o1-Open-PRM, and outcome reward models (sequence "
    "classification with one label, Qwen2ForRewardModel)"
)


def load_prm(
    name: str,
    engine: EngineKind = "transformers",
    options: Mapping[str, Any] | None = None,
) -> ReadingScorer:
    """A scorer by folder or hub name, in the format of its family.

    Args:
        name: a local folder or a hub name.
        engine: what runs it; a model with a head needs `transformers` or `vllm`.
        options: keywords of the engine; `family` names the family where the files do not tell,
            as in a copy of Math-Shepherd, which looks like any other Mistral.

    Raises:
        ValueError: a model of no supported family, or that its family's format does not fit, or an
            unknown option.
        FileNotFoundError: the model cannot be had.
    """
    keywords = dict(options or {})
    family = _named(keywords.pop("family", None)) or family_of(name)
    if family not in WITH_HEAD:
        return FAMILIES[family](load_engine(name, engine, keywords))  # type: ignore[call-arg]
    return FAMILIES[family](_head_engine(name, engine, keywords))  # type: ignore[call-arg]


def family_of(name: str) -> Family:
    """The family of a checkpoint: what its configuration says it is (`scorer_family`, which
    `reasoning.training.scorer` writes), else by its architecture and name.

    Raises ValueError, with what is supported, where it belongs to none.
    """
    config = _config(name)
    if told := _named(config.get("scorer_family")):
        return told
    (architecture,) = (config.get("architectures") or ["none"])[:1]
    called = f"{name} {config.get('_name_or_path', '')}".lower()
    labels = len(config.get("id2label") or ()) or config.get("num_labels", 2)
    if architecture == "Qwen2ForProcessRewardModel":
        return "qwen_prm"
    if architecture == "Qwen2ForPrmModel":
        return "skywork_prm"
    if architecture == "Qwen2ForRewardModel":
        return "outcome"
    if architecture.endswith("ForSequenceClassification") and labels == 1:
        return "outcome"
    if architecture.endswith("ForCausalLM"):
        if "shepherd" in called:
            return "math_shepherd"
        if "rlhflow" in called and "prm" in called:
            return "rlhflow"
    raise ValueError(
        f"{name} ({architecture}) is no scorer known here; supported are {SUPPORTED}. A copy of "
        f"one under another name is told by the option family: {', '.join(FAMILIES)}"
    )


def _named(family: str | None) -> Family | None:
    if family is None or family in FAMILIES:
        return family
    near = get_close_matches(str(family), FAMILIES, n=1, cutoff=0.0)[0]
    raise ValueError(
        f"there is no family {family!r}; did you mean {near!r}? Families: "
        f"{', '.join(get_args(Family))}"
    )


def _config(name: str) -> dict[str, Any]:
    """config.json, as it is."""
    from transformers import PretrainedConfig

    try:
        return PretrainedConfig.get_config_dict(name)[0]
    except (OSError, ValueError) as error:
        raise unavailable(name, error) from error


def _head_engine(name: str, kind: EngineKind, options: dict[str, Any]) -> Engine:
    """What runs a model with a head."""
    with naming_options(f"the engine {kind!r} of a scorer with a head"):
        if kind == "transformers":
            from reasoning.engines.shared import Shared
            from reasoning.scorers.heads import HeadEngine

            return Shared(HeadEngine(name, **options))
        if kind == "vllm":
            from reasoning.scorers.heads_vllm import VLLMHeadEngine

            return VLLMHeadEngine(name, **options)
    raise ValueError(
        f"{name} has a head, whose scores a server of the engine {kind!r} does not give as they "
        "are needed here: use scorer_engine=transformers or scorer_engine=vllm"
    )
