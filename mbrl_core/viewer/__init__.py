"""An interactive page of what a plan looked at, in one HTML file that needs no network.

`save_html` writes a whole page; `element`, `style` and `script` are its parts, for a page of your
own. Data goes in as JSON and reaches the page as text only, never as markup.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from mbrl_core.export import Describe, columns_of, root_count, trace_of
from mbrl_core.types import Plan, Rollout, Tree

FOLDER = Path(__file__).parent


def save_html(
    plan: Plan | Tree | Rollout,
    path: str | Path,
    *,
    describe: Describe | None = None,
    title: str = "What the plan looked at",
    caption: str = "",
    roots: Sequence[int] | None = None,
) -> Path:
    """Write a page that folds, searches and explains the trace of a plan, and return its path.

    A tree is shown as an outline under a map of the whole: widths are visits, colours values, the
    chosen path is marked. Futures are shown as lines of return against step, over their steps.
    The keys are listed at the foot of the page. `#q=text`, `#node=7` and `#root=1` behind the
    page's address search, select and switch roots.

    Args:
        plan: a plan, or its trace; of a plan the path it chose is the one marked.
        path: of the file; its folder is made.
        describe: text of a node from its state and action, see `mbrl_core.export.Describe`.
        title: heading of the page.
        caption: text below it.
        roots: rows of the batch to show; all if None.

    Raises:
        ValueError: there is no such root, or none is given.
        OSError: the disk refuses.
    """
    path = Path(path)
    page = _PAGE.format(
        title=escape(title),
        caption=f"<p>{escape(caption)}</p>\n" if caption else "",
        style=style(),
        element=element(plan, describe=describe, roots=roots),
        script=script(),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8", errors="replace")
    return path


def element(
    plan: Plan | Tree | Rollout,
    *,
    describe: Describe | None = None,
    roots: Sequence[int] | None = None,
) -> str:
    """The viewer as one HTML element, for a page that has `style` and, after it, `script`."""
    trace = trace_of(plan)
    shown = range(root_count(trace)) if roots is None else roots
    if len(shown) == 0:
        raise ValueError("no root is to be shown: give at least one, or None for all")
    data = {
        "kind": "tree" if isinstance(trace, Tree) else "rollout",
        "roots": [{"root": b, "columns": columns_of(plan, b, describe)} for b in shown],
    }
    packed = json.dumps(_plain(data), separators=(",", ":"), allow_nan=False)
    # Nothing in the data can end the element it is in, or open a comment.
    packed = packed.replace("<", "\\u003c")
    store = f'<script type="application/json">{packed}</script>'
    return f'<div class="viewer">{store}<noscript>{_NO_SCRIPT}</noscript></div>'


def style() -> str:
    """The style sheet: rules for `.viewer` and what is inside, and for a body `.viewer-page`."""
    return (FOLDER / "viewer.css").read_text(encoding="utf-8")


def script() -> str:
    """The script; it brings every `.viewer` that stands before it to life."""
    return (FOLDER / "viewer.js").read_text(encoding="utf-8")


def _plain(value: Any) -> Any:
    """The value as JSON takes it: nine digits that matter, which is all of single precision, and
    "NaN", "Infinity" and "-Infinity" as text."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if not isinstance(value, float):
        return value
    if math.isfinite(value):
        short = float(f"{value:.9g}")
        return int(short) if short.is_integer() and abs(short) < 2**53 else short
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


_NO_SCRIPT = "This viewer needs JavaScript."
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
{style}</style>
</head>
<body class="viewer-page">
<h1>{title}</h1>
{caption}{element}
<script>
{script}</script>
</body>
</html>
"""
