"""The report stands alone, escapes what it is given, and shows what the records say."""

import io
import json
import re

import pytest
import torch

from evals.report import (
    CartPole,
    Section,
    Table,
    TreeView,
    number,
    print_table,
    render,
    shown,
    write_report,
)
from evals.stats import Estimate
from mbrl_core import viewer
from mbrl_core.types import Tree
from mbrl_core.viewer.charts import Curve, LineChart
from tests.pages import parse, stands_alone

EVIL = '<script>alert(1)</script> & "quotes" </script>'
ONES = torch.ones(1, 2)
TREE = Tree(
    size=torch.tensor([2]),
    parent=torch.tensor([[-1, 0]]),
    slot=torch.tensor([[-1, 0]]),
    depth=torch.tensor([[0, 1]]),
    visits=torch.tensor([[3, 1]]),
    value=ONES,
    raw_value=ONES,
    prior=ONES,
    reward=ONES,
    discount=ONES,
    states=["", ""],
    actions=["", ""],
)


def episode(**changes) -> CartPole:
    plain = CartPole([0, 0.1], [3.14, 3.0], [0, 0.5], [1, -1], 0.02)
    return plain._replace(**changes)


def sections() -> list[Section]:
    curve = Curve(EVIL, [1, 10], [1, 2], [0, 1], [2, 3])
    return [
        Section(
            EVIL,
            f"{EVIL}\n\nsecond",
            "python -m evals.control",
            [LineChart([curve], EVIL, "y", caption=EVIL)],
            [Table(["name", "return"], [[EVIL, Estimate(1, 0, 2)], ["b", None]], EVIL)],
        ),
        Section(
            "tree", figures=[TreeView(TREE, lambda *_: EVIL, "caption"), episode(caption=EVIL)]
        ),
    ]


def test_the_page_is_whole_stands_alone_and_is_escaped():
    html = render(EVIL, sections(), EVIL)
    page = parse(html)
    assert (
        sum(tag == "script" for tag, _ in page.tags) == 3
    )  # the episode's data, the search's, ours
    stands_alone(html)
    assert any("alert(1)" in text for text in page.text)


def test_a_search_is_shown_by_the_viewer_and_pages_without_one_do_not_carry_it():
    page = parse(render("t", sections()))
    assert [a["class"] for t, a in page.tags if (a.get("class") or "") == "viewer"] == ["viewer"]
    (packed,) = re.findall(r'application/json">({"kind".*?)</script>', render("t", sections()))
    assert json.loads(packed)["roots"][0]["columns"]["text"] == [EVIL, EVIL]
    assert viewer.script() in render("t", sections())
    assert viewer.script() not in render("t", [Section("s", figures=[episode()])])


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
