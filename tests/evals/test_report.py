"""The report stands alone, escapes what it is given, and shows what the records say."""

import io
import json
import re
from html.parser import HTMLParser

import pytest
import torch

from evals.charts import Curve, LineChart
from evals.report import (
    CartPole,
    Section,
    Table,
    TreeNode,
    TreeView,
    number,
    print_table,
    render,
    shown,
    tree_view,
    write_report,
)
from evals.stats import Estimate
from mbrl_core.types import Tree

EVIL = '<script>alert(1)</script> & "quotes" </script>'
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


def episode(**changes) -> CartPole:
    plain = CartPole([0, 0.1], [3.14, 3.0], [0, 0.5], [1, -1], 0.02)
    return plain._replace(**changes)


def sections() -> list[Section]:
    curve = Curve(EVIL, [1, 10], [1, 2], [0, 1], [2, 3])
    tree = TreeNode(EVIL, 3, 0.5, None, None, True, [TreeNode("leaf", 1, 0.1, 0.9, 0.3)])
    return [
        Section(
            EVIL,
            f"{EVIL}\n\nsecond",
            "python -m evals.control",
            [LineChart([curve], EVIL, "y", caption=EVIL)],
            [Table(["name", "return"], [[EVIL, Estimate(1, 0, 2)], ["b", None]], EVIL)],
        ),
        Section("tree", figures=[TreeView(tree, "caption"), episode(caption=EVIL)]),
    ]


def test_the_page_is_whole_stands_alone_and_is_escaped():
    html = render(EVIL, sections(), EVIL)
    page = parse(html)
    assert sum(tag == "script" for tag, _ in page.tags) == 2  # ours and the episode's data
    for tag, attributes in page.tags:
        assert tag not in ("link", "img", "iframe", "object")
        assert not attributes.get("src")
        assert attributes.get("href", "#").startswith("#")
    assert not re.search(r"https?://|url\(|@import", html)
    assert any("alert(1)" in text for text in page.text)


def test_the_tree_shows_its_facts_and_opens_the_chosen_path():
    page = parse(render("t", sections()))
    details = [attributes for tag, attributes in page.tags if tag == "details"]
    assert [("open" in d, d["class"]) for d in details] == [(True, "node chosen")]
    text = " ".join("".join(page.text).split())
    assert "visits 3" in text and "prior 0.90" in text and "score 0.300" in text


def test_the_episodes_numbers_are_in_the_page():
    html = render("t", [Section("s", figures=[episode()])])
    (packed,) = re.findall(r'<script type="application/json">(.*?)</script>', html)
    data = json.loads(packed)
    assert data["angle"] == [3.14, 3.0] and data["seconds"] == 0.02


def test_wrong_episodes_are_refused():
    for wrong in (episode(reward=[1.0]), CartPole([], [], [], [], 0.1)):
        with pytest.raises(ValueError, match="equally many"):
            render("t", [Section("s", figures=[wrong])])
    with pytest.raises(ValueError, match="angle holds a value that is not finite"):
        render("t", [Section("s", figures=[episode(angle=[float("nan"), 0])])])


def test_write_report_makes_the_folder(tmp_path):
    path = write_report(tmp_path / "new/report.html", "title", sections())
    assert path.read_text().startswith("<!doctype html>")


def test_cells():
    assert [shown(c) for c in (None, 12345, 0.12345, "x", Estimate(812.44, 790, 830.123))] == [
        "–",
        "12,345",
        "0.123",
        "x",
        "812.4 [790.0, 830.1]",
    ]
    assert [number(v) for v in (12345.6, 0.0, 1e-5, float("nan"))] == [
        "12,346",
        "0.000",
        "1e-05",
        "nan",
    ]


def test_a_table_on_paper_and_on_a_terminal():
    table = Table(["planner", "return"], [["CEM", 812.44], ["[b]MPPI", None]], "Equal compute")
    paper = io.StringIO()
    print_table(table, paper)
    assert paper.getvalue() == (
        "Equal compute\nplanner  return\nCEM       812.4\n[b]MPPI       –\n"
    )

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    print_table(table, screen)
    assert "[b]MPPI" in screen.getvalue() and "812.4" in screen.getvalue()


def test_tree_view_reads_a_search_tree():
    """Two roots; the second has nodes 0 -> (1, 2), 1 -> 3."""
    number_of = torch.tensor([[9, 9, 9, 9], [10, 6, 3, 2]])
    zeros = torch.zeros(2, 4)
    tree = Tree(
        size=torch.tensor([1, 4]),
        parent=torch.tensor([[-1, 0, 0, 0], [-1, 0, 0, 1]]),
        slot=torch.tensor([[-1, 0, 1, 0], [-1, 0, 1, 0]]),
        depth=torch.tensor([[0, 0, 0, 0], [0, 1, 1, 2]]),
        visits=number_of,
        value=torch.tensor([[0.0, 0, 0, 0], [0.1, 0.2, 0.3, 0.4]]),
        raw_value=zeros,
        prior=zeros + 0.5,
        reward=zeros,
        discount=zeros,
        states=[""] * 8,
        actions=[""] * 8,
    )
    root = tree_view(tree, 1, lambda node: f"step {node}", score=lambda node: node / 10).root
    assert (root.text, root.visits, root.prior, root.chosen) == ("step 0", 10, None, True)
    first, second = root.children
    assert (first.text, first.chosen, first.children[0].text) == ("step 1", True, "step 3")
    assert first.children[0].chosen and not second.chosen and second.score == 0.2
    other = tree_view(tree, 1, str, chosen=[2]).root
    assert [child.chosen for child in other.children] == [False, True]
    assert not tree_view(tree, 0, str).root.children
