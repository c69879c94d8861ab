"""The page holds what the trace holds, as text and never as markup, and its script works.

What a browser does is tested where Chromium is installed.
"""

from __future__ import annotations

import json
import re
import runpy
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch

from mbrl_core import (
    MCTS,
    BeamSearch,
    Plan,
    Planner,
    RandomShooting,
    Tree,
    generator,
    save_html,
)
from mbrl_core.export import columns_of
from mbrl_core.viewer import element
from tests.worlds import tensor_garden, tensor_rows, text_garden

ROOT = Path(__file__).parents[2]
PATHS = ["start", "gate>left", "wall"]
EVIL = '</script><script>document.title = "taken"</script><img src=x onerror=alert(1)> <!-- & "\''
PLANNERS: dict[str, Planner] = {
    "mcts": MCTS(simulations=30, candidates=3),
    "beam": BeamSearch(width=2, expand=3, depth=4),
    "futures": RandomShooting(samples=7, horizon=4),
}
every_planner = pytest.mark.parametrize("planner", PLANNERS.values(), ids=PLANNERS)


def text_plan(planner: Planner = PLANNERS["mcts"]) -> Plan:
    return planner(text_garden(), PATHS, rng=generator(0))[0]


def data_of(page: str) -> dict[str, Any]:
    (packed,) = re.findall(r'<script type="application/json">(.*?)</script>', page, re.DOTALL)
    return json.loads(packed)


class Tags(HTMLParser):
    """The tags of a page, and what is text in it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


# What is in the page


@every_planner
def test_the_page_holds_every_number_of_every_root(planner: Planner, tmp_path: Path) -> None:
    plan, _ = planner(tensor_garden(), tensor_rows(PATHS), rng=generator(0))
    data = data_of(save_html(plan, tmp_path / "new/page.html").read_text())
    assert data["kind"] == ("tree" if isinstance(plan.trace, Tree) else "rollout")
    assert [each["root"] for each in data["roots"]] == [0, 1, 2]
    for b, each in enumerate(data["roots"]):
        assert each["columns"].keys() == columns_of(plan, b).keys()
        for name, column in columns_of(plan, b).items():
            found = each["columns"][name]
            if isinstance(column[0], float):  # single precision comes back to the last bit
                assert torch.tensor(found).equal(torch.tensor(column)), name
            else:
                assert found == column, name


def test_single_roots_can_be_shown() -> None:
    data = data_of(element(text_plan(), roots=[2, 0]))
    assert [each["root"] for each in data["roots"]] == [2, 0]
    assert [each["columns"]["text"][0] for each in data["roots"]] == ["wall", "start"]
    with pytest.raises(ValueError, match="no root 3"):
        element(text_plan(), roots=[3])
    with pytest.raises(ValueError, match="at least one"):
        element(text_plan(), roots=[])


def strange_plan() -> Plan:
    """One whose first three nodes have values that are not finite."""
    plan = text_plan()
    assert isinstance(plan.trace, Tree)
    value = plan.trace.value.clone()
    value[0, :3] = torch.tensor([torch.nan, torch.inf, -torch.inf])
    return plan._replace(trace=plan.trace._replace(value=value))


def test_numbers_that_are_not_finite_have_names() -> None:
    found = data_of(element(strange_plan()))["roots"][0]["columns"]["value"]
    assert found[:3] == ["NaN", "Infinity", "-Infinity"]


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    lost = EVIL + "\u2028\ud800"  # a line separator, and half of a character
    path = tmp_path / "page.html"
    save_html(text_plan(), path, describe=lambda *_: lost, title=EVIL, caption=lost)
    page = Tags(path.read_text())
    assert [tag for tag, _ in page.tags if tag in ("script", "img")] == ["script", "script"]
    assert sum(EVIL in text for text in page.text) == 3  # title, heading and caption
    assert data_of(path.read_text())["roots"][0]["columns"]["text"][0] == lost


def test_the_page_needs_no_network(tmp_path: Path) -> None:
    page = save_html(text_plan(), tmp_path / "page.html").read_text()
    assert not re.search(r"https?://|url\(|@import|fetch\(|XMLHttp", page)
    for tag, attributes in Tags(page).tags:
        assert tag not in ("link", "img", "iframe", "object")
        assert not {"src", "href"} & attributes.keys()


def test_the_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(ROOT / "examples/look_at_a_tree.py"), run_name="__main__")
    assert capsys.readouterr().out.startswith("runs/tree.html: 201 nodes, ")
    assert data_of(Path("runs/tree.html").read_text())["kind"] == "tree"


# What the script does

Render = Callable[..., "Dom"]


class Dom:
    """A page after its script has run."""

    def __init__(self, page: str) -> None:
        self.tags = Tags(page).tags
        (self.found,) = re.findall(r'<output class="found"[^>]*>(.*?)</output>', page)
        self.details = re.sub("<[^>]+>", " ", page.split("<aside", 1)[1].split("</aside>")[0])
        self.title = re.findall(r"<title>(.*?)</title>", page)[0]

    @property
    def rows(self) -> list[dict[str, str | None]]:
        return [each for _, each in self.tags if each.get("role") == "treeitem"]

    def nodes(self, kind: str = "row") -> list[int]:
        """Numbers of the nodes whose rows have a class, from top to bottom."""
        having = [row for row in self.rows if kind in (row["class"] or "").split()]
        return [int(row["data-node"] or -1) for row in having]


@pytest.fixture(scope="module")
def browser() -> str:
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip("needs Chromium")
    return found


@pytest.fixture
def render(browser: str, tmp_path: Path) -> Render:
    def render(plan: Plan, wish: str = "", **options: Any) -> Dom:
        page = save_html(plan, tmp_path / "page.html", **options)
        for milliseconds in (1000, 4000, 16000):  # a busy machine may not have drawn the page yet
            command = [
                browser, "--headless=new", "--no-sandbox", "--disable-gpu",
                "--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}",
                "--window-size=1000,2000", f"--virtual-time-budget={milliseconds}", "--dump-dom",
                f"{page.as_uri()}#{wish}",
            ]  # fmt: skip
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
            assert "CONSOLE" not in done.stderr, done.stderr  # an error of the script
            if 'aria-busy="true"' not in done.stdout:
                break
        return Dom(done.stdout)

    return render


def test_at_first_the_chosen_path_is_open(render: Render) -> None:
    plan = text_plan()
    columns = columns_of(plan, 0)
    path = [node for node, chosen in enumerate(columns["chosen"]) if chosen]
    page = render(plan)
    inner = {parent for parent in columns["parent"] if parent >= 0}
    assert sorted(page.nodes()) == [
        node for node, parent in enumerate(columns["parent"]) if parent in path or node == 0
    ]
    assert page.nodes("chosen") == path
    for row in page.rows:
        node = int(row["data-node"] or -1)
        assert row["aria-level"] == str(columns["depth"][node] + 1)
        expanded = None if node not in inner else "true" if node in path else "false"
        assert row.get("aria-expanded") == expanded


def test_all_nodes_open_below_their_parents_by_visits(render: Render) -> None:
    plan = text_plan()
    columns = columns_of(plan, 1)
    order = render(plan, "root=1&open=all").nodes()
    assert sorted(order) == list(range(len(columns["parent"])))
    place = {node: i for i, node in enumerate(order)}
    for node in order[1:]:
        assert place[columns["parent"][node]] < place[node]
        siblings = [n for n in order if columns["parent"][n] == columns["parent"][node]]
        visits = [columns["visits"][sibling] for sibling in siblings]
        assert visits == sorted(visits, reverse=True)


def test_search_opens_the_way_to_every_match_and_nothing_else(render: Render) -> None:
    plan = text_plan()
    columns = columns_of(plan, 0)
    matches = [node for node, text in enumerate(columns["text"]) if "stop" in text]
    page = render(plan, "q=STOP")
    assert sorted(page.nodes("match")) == matches
    assert page.found == f"1 of {len(matches)}"
    assert page.nodes("selected") == page.nodes("match")[:1]
    often = [node for node, visits in enumerate(columns["visits"]) if node and visits >= 5]
    assert sorted(render(plan, "q=visits>=5").nodes("match")) == often


def test_details_tell_the_numbers_and_the_path(render: Render) -> None:
    plan = text_plan()
    columns = columns_of(plan, 0)
    deep = max(range(len(columns["depth"])), key=columns["depth"].__getitem__)
    page = render(plan, f"node={deep}")
    assert page.nodes("selected") == [deep]
    words = " ".join(page.details.replace("\u2212", "-").split())
    assert f"visits {columns['visits'][deep]} " in words
    assert f"score {columns['score'][deep]:.3f} " in words or columns["score"][deep] % 1 == 0
    node = deep
    for word in reversed(words.split("Path ")[1].split()):
        assert word == columns["text"][node]
        node = columns["parent"][node]
    assert node == 0


def test_futures_are_listed_by_return_each_with_its_steps(render: Render) -> None:
    plan = text_plan(PLANNERS["futures"])
    columns = columns_of(plan, 0)
    page = render(plan, "open=all")
    order = [columns["candidate"][node] for node in page.nodes()]
    best_first = plan.trace.returns[0].argsort(descending=True, stable=True).tolist()
    lengths = [columns["candidate"].count(n) for n in best_first]
    assert order == [
        n for n, length in zip(best_first, lengths, strict=True) for _ in range(length)
    ]
    for row in page.rows:
        first = columns["depth"][int(row["data-node"] or -1)] == 1
        assert row["aria-level"] == ("1" if first else "2")
    assert {columns["candidate"][node] for node in page.nodes("chosen")} == {
        columns["candidate"][columns["chosen"].index(True, 1)]
    }


def test_a_search_by_return_finds_whole_futures(render: Render) -> None:
    plan = text_plan(PLANNERS["futures"])
    returns = plan.trace.returns[0]
    limit = returns.median().item()
    page = render(plan, f"q=return>{limit}")
    assert page.found == f"1 of {(returns > limit).sum()}"
    assert page.nodes("match") == page.nodes()[: int((returns > limit).sum())]


def test_hostile_text_is_shown_and_not_run(render: Render) -> None:
    page = render(text_plan(), "q=alert", describe=lambda *_: EVIL, title="safe")
    assert page.title == "safe"
    assert not [tag for tag, _ in page.tags if tag == "img"]
    assert len(page.nodes("match")) > 1
    assert "onerror=alert(1)" in page.details


def test_numbers_that_are_not_finite_are_shown_as_such(render: Render) -> None:
    page = render(strange_plan(), "node=2")
    assert "value \u2212\u221e " in " ".join(page.details.split())


def test_only_the_rows_in_sight_are_elements(render: Render) -> None:
    planner = RandomShooting(samples=2000, horizon=4)
    plan, _ = planner(text_garden(), PATHS[:1], rng=generator(0))
    page = render(plan)
    assert 20 < len(page.rows) < 100
    (futures,) = {row["aria-setsize"] for row in page.rows}
    assert futures == "2000"
