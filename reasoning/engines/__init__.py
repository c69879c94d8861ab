"""Engines: the only place that knows how tokens are computed."""

from reasoning.engines.base import Completion, Engine, Request, ScoreRequest
from reasoning.engines.scripted import ScriptedEngine
from reasoning.engines.transformers import TransformersEngine

__all__ = [
    "Completion",
    "Engine",
    "Request",
    "ScoreRequest",
    "ScriptedEngine",
    "TransformersEngine",
]
