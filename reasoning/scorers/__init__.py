"""Judges of reasoning: reward models of the public families, and the language model itself."""

from reasoning.scorers.base import ReadingScorer
from reasoning.scorers.families import (
    FAMILIES,
    Family,
    MathShepherd,
    OutcomeScorer,
    QwenPRM,
    RLHFlow,
    SkyworkPRM,
    StepScorer,
)
from reasoning.scorers.judges import (
    JUDGES,
    AnswerLikelihood,
    SelfCritique,
    Verdicts,
    Votes,
    make_judge,
)
from reasoning.scorers.load import family_of, load_prm

__all__ = [
    "FAMILIES",
    "JUDGES",
    "AnswerLikelihood",
    "Family",
    "MathShepherd",
    "OutcomeScorer",
    "QwenPRM",
    "RLHFlow",
    "ReadingScorer",
    "SelfCritique",
    "SkyworkPRM",
    "StepScorer",
    "Verdicts",
    "Votes",
    "family_of",
    "load_prm",
    "make_judge",
]
