"""Engines: the only place that knows how tokens are computed."""

from reasoning.engines.base import (
    Completion,
    Engine,
    EngineError,
    Fill,
    Request,
    Sampling,
    Score,
    ScoreRequest,
    Turn,
    failure,
)
from reasoning.engines.load import ENGINES, EngineKind, load_engine
from reasoning.engines.scripted import ScriptedEngine
from reasoning.engines.shared import Shared
from reasoning.engines.transformers import TransformersEngine

__all__ = [
    "ENGINES",
    "Completion",
    "Engine",
    "EngineError",
    "EngineKind",
    "Fill",
    "Request",
    "Sampling",
    "Score",
    "ScoreRequest",
    "ScriptedEngine",
    "Shared",
    "TransformersEngine",
    "Turn",
    "failure",
    "load_engine",
]
