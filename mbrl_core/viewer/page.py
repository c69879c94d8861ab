"""HTML pages that stand alone: style, script and figures are inside, and no network is needed.

They follow the reader's light or dark mode, and read on a phone.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

from mbrl_core.viewer.charts import LineChart, draw, legend, tag

FOLDER = Path(__file__).parent
WIDE, NARROW = (760, 400), (360, 300)  # pixels of a chart's two versions


class Part(NamedTuple):
    """One section of a page."""

    title: str
    body: str  # markup


def page(
    title: str, parts: Sequence[Part], subtitle: str = "", *, style: str = "", script: str = ""
) -> str:
    """The whole page as HTML text.

    Args:
        title: its heading, as text.
        parts: its sections, which a page of several lists at the top.
        subtitle: text below the heading.
        style: rules that the parts need beyond those of charts and tables.
        script: what the parts need to run, after them.
    """
    links = [tag("a", escape(part.title), href=f"#part-{i}") for i, part in enumerate(parts)]
    sections = [
        tag("section", tag("h2", escape(part.title)), part.body, id=f"part-{i}")
        for i, part in enumerate(parts)
    ]
    body = [
        tag(
            "header",
            tag("h1", escape(title)),
            tag("p", escape(subtitle), class_="subtitle") if subtitle else "",
            tag("nav", *links) if len(links) > 1 else "",
        ),
        tag("main", *sections),
        tag("div", id="tip", role="status"),
        tag("script", (FOLDER / "page.js").read_text(encoding="utf-8") + script),
    ]
    head = [
        '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        tag("title", escape(title)),
        tag("style", (FOLDER / "page.css").read_text(encoding="utf-8") + style),
    ]
    html = tag("head", *head) + tag("body", *body)
    return f'<!doctype html>\n<html lang="en">{html}</html>\n'


def figure(body: str, caption: str = "") -> str:
    """Markup with a caption, which is text."""
    return tag("figure", body, tag("figcaption", escape(caption)) if caption else "")


def chart(drawn: LineChart) -> str:
    """A chart as a figure in two versions, of which the style shows the one that fits."""
    wide = tag("div", draw(drawn, *WIDE), class_="wide")
    narrow = tag("div", draw(drawn, *NARROW), class_="narrow")
    return figure(wide + narrow + legend(drawn), drawn.caption)
