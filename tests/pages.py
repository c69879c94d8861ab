"""What every HTML page of ours must be: well formed, and whole without a network."""

import re
from html.parser import HTMLParser

VOID = {"meta", "input"}


class Checker(HTMLParser):
    """Collects tags, and fails where they do not nest."""

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.stack.pop() == tag

    def handle_data(self, data):
        if self.stack and self.stack[-1] not in ("script", "style"):
            self.text.append(data)


def parse(html: str) -> Checker:
    checker = Checker()
    checker.feed(html)
    assert not checker.stack
    return checker


def stands_alone(html: str) -> None:
    """Assert that the page loads nothing."""
    for tag, attributes in parse(html).tags:
        assert tag not in ("link", "img", "iframe", "object")
        assert (attributes.get("src") or "data:").startswith("data:")
        assert (attributes.get("href") or "#").startswith("#")
    assert not re.search(r"https?://|url\(|@import", html)
