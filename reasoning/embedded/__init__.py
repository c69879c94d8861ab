"""The language model and the step scorer that come with the package."""

from pathlib import Path
from typing import Literal


def folder_of(name: str, part: Literal["lm", "scorer"] = "lm") -> str:
    """`name` itself, or the folder of the embedded model where it is `embedded`."""
    return str(Path(__file__).parent / part) if name == "embedded" else name
