r"""MATH-500, plain JSONL, math-verify behind a process, tasks by name, and the recipe."""

from __future__ import annotations

import csv
import json
import re
import signal
import threading
import time
from pathlib import Path

import pytest

from evals import reasoning
from evals.reasoning import evaluate, few_shot
from evals.scaling.command import scaling
from mbrl_core import generator
from reasoning import equality
from reasoning.engines import ScriptedEngine, TransformersEngine, Turn
from reasoning.engines.base import Sampling
from reasoning.equality import Verifier, verifier
from reasoning.grading import boxed
from reasoning.prompts import encode_ask
from reasoning.reasoner import Reasoner
from reasoning.strategies import FinalAnswer, best_of_n, self_consistency
from reasoning.tasks import (
    GAME24,
    GSM8K,
    JSONL,
    MATH500,
    TASKS,
    Generated,
    Problem,
    find_task,
    load_task,
)
from reasoning.tasks.math500 import equals
from reasoning.tasks.plain import is_formula, number_of, plain_answer
from reasoning.world import LanguagePolicy, Step, TextWorld, Thought
from tests.evals.commands import records_of
from tests.golden import golden_files
from tests.language import save_tiny_model

TOWER = "9^{9^{9^{9}}}"  # digits that no computer holds


@pytest.fixture
def write(tmp_path):
    def write(*lines, name="test.jsonl"):
        path = tmp_path / name
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        path.write_text("\n".join(texts) + "\n")
        return path

    return write


# ------------------------------------------------------------------------------------- math-verify


@pytest.mark.parametrize("file", golden_files("math_verify_numeric_cases.jsonl"))
def test_math_verify_agrees_with_its_own_cases(file: Path) -> None:
    cases = [json.loads(line) for line in file.read_text().splitlines()]
    found = [verifier().same(c["gold"], c["pred"], tuple(c["match_types"])) for c in cases]
    assert [one.same for one in found] == [bool(case["expected"]) for case in cases]
    assert len(cases) == 88


def test_what_does_not_end_is_ended_and_the_next_question_is_answered():
    verify = Verifier(seconds=0.5)
    assert verify.same("$5$", "$5$").same is True
    before = time.process_time()
    same, reason = verify.same("$5$", f"${TOWER}$")
    assert same is None and reason == "comparing took more than 0.5 s"
    assert time.process_time() - before < 0.5  # it was not this process that computed
    assert verify.same(r"$\frac{1}{2}$", "$0.5$").same is True
    verify.close()


def test_any_thread_may_ask():
    found = {}

    def ask(number: int) -> None:
        found[number] = verifier().same(f"${number}$", f"so it is ${number // 2}+{number // 2}$")

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[n].same for n in range(8)] == [n % 2 == 0 for n in range(8)]


def test_an_interrupted_question_leaves_no_answer_behind():
    verify = Verifier(seconds=1.0)
    assert verify.extract("$5$") is not None  # it has started

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        with pytest.raises(KeyboardInterrupt):
            verify.same("$5$", f"${TOWER}$")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert verify.same("$5$", "$5$") == (True, "")
    assert verify.same("$5$", "$6$") == (False, "")
    verify.close()


def test_the_answers_of_last_use_are_remembered(monkeypatch):
    verify = Verifier()
    asked: list[str] = []
    monkeypatch.setattr(equality, "REMEMBERED", 2)
    monkeypatch.setattr(verify, "_asked", lambda line: (asked.append(json.loads(line)["text"]), ""))
    for text in ("a", "b", "a", "c", "a", "b"):
        verify.extract(text)
    assert asked == ["a", "b", "c", "b"]


# ---------------------------------------------------------------------------------------- MATH-500


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (r"It is \boxed{7}.", "7"),
        (r"\boxed{3} no, \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\left\{1, 2\right\}}", r"\left\{1, 2\right\}"),
        (r"\boxed{4} and then \boxed{5", "4"),
        (r"\boxed{}", None),
        ("7", None),
    ],
)
def test_the_answer_is_in_the_last_closed_box(text, found):
    assert boxed(text) == found


@pytest.mark.parametrize(
    ("answer", "text", "right"),
    [
        (r"\frac{1}{2}", r"\boxed{0.5}", True),
        (r"\frac{1}{2}", r"\boxed{\dfrac12}", True),
        ("10,080", r"\boxed{10080}", True),
        (r"\left( 3, \frac{\pi}{2} \right)", r"\boxed{(3, \pi/2)}", True),
        ("p - q", r"\boxed{-q+p}", True),
        ("p - q", r"\boxed{q - p}", False),
        (r"\text{Evelyn}", r"\boxed{\text{Evelyn}}", True),
        (r"2\sqrt{3}", r"\boxed{\sqrt{12}}", True),
        ("7", "So the answer is $3 + 4 = 7$.", True),  # without a box
        ("7", "I do not know", None),
    ],
)
def test_math_answers_are_compared_as_expressions(answer, text, right):
    problem = Problem("p", "?", answer)
    assert MATH500.grade(text, problem).correct is right
    assert MATH500.graders["boxed"](text, problem).correct is (right if "boxed" in text else None)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("12", "12.", True),
        ("x + 1", "x + 1.", True),
        (r"\text{Evelyn}", r"\text{Evelyn}.", True),
        ("15", r"15\%", True),
        ("15", "15%", True),
        (r"15\%", "15%", True),
        ("15", r"15\,\%.", True),
        (r"12.5\%", r"\frac{25}{2}\%", True),
        ("0.15", r"15\%", False),
        ("12", r"13.", False),
        ("12", "1.2", False),
        ("%", "", False),
        (r"\left\{ 1 \right.", "2", False),
    ],
)
def test_a_final_point_or_per_cent_sign_makes_no_difference(one, other, same):
    assert equals(one, other).correct is same
    assert equals(other, one).correct is same
    assert MATH500.votes([rf"\boxed{{{one} }}", rf"\boxed{{{other}}}"]).count(one) == 1 + same


def test_what_math_verify_equates_as_written_stays_equal():
    assert equals("50%", r"\frac{1}{2}").correct is True


def test_equal_expressions_vote_together():
    texts = [r"\boxed{0.5}", r"\boxed{1}", r"\boxed{\frac{1}{2}}", "none", r"\boxed{\frac{2}{4}}"]
    assert MATH500.votes(texts) == ["0.5", "1", "0.5", None, "0.5"]
    thoughts = [
        Thought("q", (), (Step((), text),), finish="answered", task=MATH500) for text in texts
    ]
    thoughts[0] = thoughts[0]._replace(finish="cut")
    assert FinalAnswer()(thoughts) == [None, "1", r"\frac{1}{2}", None, r"\frac{1}{2}"]


@pytest.mark.parametrize("unit", ["solution", "step"])
def test_a_box_may_take_several_lines(unit):
    matrix = "\\boxed{\\begin{pmatrix}\n1\\\\\n2\n\\end{pmatrix}}\n"
    said = f"So it is\n{matrix}no, \\boxed{{3}}\n\0"
    engine = ScriptedEngine(lambda text: [(said[len(text) - 1 :], 1.0)])
    policy, world = LanguagePolicy(engine, unit, Sampling(0.0)), TextWorld()
    thought = Thought("q", tuple(engine.encode("q")), task=MATH500)
    while thought.finish == "open":
        action = policy.propose([thought], 1, rng=generator(0)).actions
        (thought,) = world.step([thought], action, rng=generator(0)).state
    assert thought.finish == "answered" and thought.text == f"So it is\n{matrix}"
    assert thought.answer == "\\begin{pmatrix}\n1\\\\\n2\n\\end{pmatrix}"


def saying(*said: tuple[str, float]) -> ScriptedEngine:
    """A model that says one of these to whatever it is asked."""
    return ScriptedEngine(lambda text: [(f"{one}\n\0", weight) for one, weight in said])


def test_the_majority_of_equal_expressions_wins():
    engine = saying((r"\boxed{3}", 5), (r"\boxed{\frac{1}{2}}", 4), (r"\boxed{0.5}", 4))
    reasoner = Reasoner(engine=engine, strategy=self_consistency(n=60), task=MATH500)
    (answer,) = reasoner(["Half of one?"])
    assert answer.answer in (r"\frac{1}{2}", "0.5")


def test_math_files_have_the_fields_of_the_hub(write):
    record = {"problem": "1+1?", "answer": "2", "solution": "It is\n$\\boxed{2}$.", "level": 1}
    path = write({**record, "unique_id": "test/algebra/1.json"}, record)
    first, second = MATH500.load(data=path)
    assert first == Problem("math500/test/algebra/1.json", "1+1?", "2", ("It is", "$\\boxed{2}$."))
    assert second.id == "math500/test/1" and MATH500.grade(MATH500.write(second), second).correct
    other = write({"question": "1+1?", "answer": "2"})
    with pytest.raises(
        ValueError, match=re.escape(f"{other}, line 1: the field 'problem' is miss")
    ):
        MATH500.load(data=other)
    with pytest.raises(FileNotFoundError, match=r"MATH-500: there is no file at .*train\.jsonl"):
        MATH500.load(data=other.parent, split="train")


def test_a_run_goes_on_where_an_answer_cannot_be_graded(write, tmp_path, monkeypatch):
    path = write({"problem": "A?", "answer": "5"}, {"problem": "B?", "answer": "6"})

    def script(text: str) -> list[tuple[str, float]]:
        return [(rf"\boxed{{{TOWER if 'A?' in text else 6}}}" + "\0", 1.0)]

    monkeypatch.setattr(reasoning, "load_lm", lambda _: ScriptedEngine(script))
    monkeypatch.setattr(verifier(), "seconds", 0.5)
    verifier().close()
    summary = evaluate(
        task="math500", data=str(path), strategy=best_of_n(n=2), out=tmp_path / "run"
    )
    verifier().close()
    bad, good = records_of(tmp_path / "run")
    assert (bad["correct"], bad["ungraded"]) == (False, "comparing took more than 0.5 s")
    assert good["correct"] and "ungraded" not in good and good["boxed"]
    assert (summary["accuracy"]["mean"], summary["ungraded"], summary["boxed"]) == (0.5, 1, 0.5)


# ----------------------------------------------------------------------------------------- any file


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("2+2=4\n#### 4", "4"),
        ("#### $1,000.00", "1000"),
        ("#### Paris.", "Paris"),
        (r"So \boxed{x+1}", "x+1"),
        ("The answer is Paris.", "Paris"),
        ("there are 7 of them", "7"),
        ("I do not know", None),
        ("####", None),
        ("The answer is: Paris", "Paris"),
        ("**Answer:** Paris", "Paris"),
        ("**Answer**: Paris", "Paris"),
        ("The final answer is **Paris**.", "Paris"),
        ("The answer:\nParis", "Paris"),
        ("**The answer is Paris.**", "Paris"),
        ("#### **$5**", "5"),
        ("#### A*", "A*"),
        ("The answer isn't clear, I say 3", "3"),
        ("#### $5$", "5"),
        (r"#### \(5\)", "5"),
        (r"#### $\boxed{5}$", "5"),
        (r"#### \boxed{5} or \boxed{6}", r"\boxed{5} or \boxed{6}"),
        ("####\nParis", "Paris"),
        ("The answer is not Rome. The answer is Paris.", "Paris"),
        ("The answer is not 7, so 8", "8"),
        ("#### 12345678901234567890123456789012345", "12345678901234567890123456789012345"),
    ],
)
def test_what_a_plain_solution_says(text, answer):
    assert plain_answer(text) == answer


@pytest.mark.parametrize(
    ("gold", "text", "right"),
    [
        ("18", "#### 18.0", True),
        ("$1,000", "#### 1000", True),
        ("18", "#### 18 eggs", True),
        ("18", "#### eighteen", False),
        ("Paris", "#### paris.", True),
        ("The Nile", "#### nile", True),
        ("Paris", "#### London", False),
        ("x^2 + 1", "#### 1 + x^2", True),
        (r"\frac{3}{4}", "#### 0.75", True),
        ("x^2 + 1", "#### x^2", False),
        ("x + y", "#### y + x", True),
        ("1945-08-15", "#### 1945-15-08", False),
        ("1945-08-15", "#### 1945-08-15", True),
        ("10 am", "#### 10 AM", True),
        ("10 am", "#### 10 m a", False),
        ("5 km", "#### km 5", False),
        ("1,2", "#### 2", False),
        ("A", "#### the", False),
        ("A*", "#### A*", True),
        ("A*", "#### A", False),
        ("__init__", "#### `__init__`", True),
        ("$5$", "#### 5 apples", True),
        ("2", "#### 1/2", False),
        ("10", "#### 2^10", False),
        ("1024", "#### 2^10", True),
        ("7", "#### x = 5 or x = 7", False),
        ("7", "#### x = 7", True),
        ("13", "#### 12 or 13", False),
        ("12", "#### 10-12", False),
        ("7", "#### 3 of 7", False),
        ("0.5", "#### 1/2", True),
        ("1/2", "#### 0.5", True),
        ("1/3", r"#### \frac{1}{3}", True),
        ("0.5", "#### 50%", True),
        ("50%", "#### 50", True),
        ("1000", "#### 1e3", True),
        ("12345678901234567890123456789012345", "#### 12345678901234567890123456789012345", True),
    ],
)
def test_any_answer_is_compared_by_what_it_is(gold, text, right):
    assert JSONL.grade(text, Problem("p", "?", gold)).correct is right


def test_plain_answers_vote_together_but_for_spelling():
    texts = ["#### Paris", "#### PARIS.", r"#### \frac{1}{2}", "#### 0.50", r"\boxed{\frac{2}{4}}"]
    assert JSONL.votes(texts) == ["Paris", "Paris", r"\frac{1}{2}", "0.5", r"\frac{1}{2}"]


def test_a_share_votes_with_its_percentage():
    assert JSONL.votes(["#### 50%", "#### 0.5", "#### 1/2"]) == ["0.5"] * 3
    assert GSM8K.votes(["#### 50%", "#### 50", "#### 50.0 %"]) == ["50"] * 3
    assert GSM8K.votes(["#### 50%", "#### 5"]) == ["50%", "5"]


def test_a_number_votes_with_what_is_counted():
    assert JSONL.votes(["#### $5$", "#### 5", "#### 5 apples", "#### 5 red apples"]) == ["5"] * 4
    apart = ["10 am", "10 pm", "5"]  # where nobody says 10
    assert JSONL.votes([f"#### {said}" for said in apart]) == apart


@pytest.mark.parametrize(
    ("said", "number"),
    [
        ("1,2", None),
        ("1,234.50", "1234.5"),
        ("1234", "1234"),
        (".5", "0.5"),
        ("-$3", "-3"),
        ("$7$", "7"),
        ("3 4", None),
        ("1/2", "0.5"),
        ("1e3", "1000"),
        ("50 %", "50%"),
        ("5 apples", None),
        ("x = 5", None),
    ],
)
def test_what_is_a_number_and_no_more(said, number):
    assert number_of(said) == number


def test_formulas_are_no_dates_and_no_words():
    assert all(map(is_formula, [r"\pi", "x^2", "x = 3", "$x$", "2x + 3y", "(1, 2)", "-3/4", "[a]"]))
    assert not any(map(is_formula, ["1945-08-15", "8/15/1945", "10 am", "5 km", "Paris", "3:30"]))


def test_plain_files_may_have_blank_lines_lists_and_no_id(write):
    path = write(
        {"question": "2+2?", "answer": 4, "id": None, "solution": ["2+2=4", "", "so 4"]},
        "",
        {"question": "1+1?", "answer": 2, "id": 0},
    )
    first, second = JSONL.load(data=path, limit=2)
    assert first == Problem("jsonl/test/0", "2+2?", "4", ("2+2=4", "so 4"))
    assert second.id == "jsonl/0"
    path = write("", {"question": "2+2?", "answer": 4, "solution": {"a": 1}})
    with pytest.raises(ValueError, match="line 2: the field 'solution' is neither text nor a list"):
        JSONL.load(data=path)


def test_an_id_that_comes_twice_is_named(write, tmp_path):
    with pytest.raises(ValueError, match="line 2: the id 'a' comes twice"):
        GAME24.load(data=write({"puzzle": "4 5 6 10", "id": "a"}, {"puzzle": "1 2 3 4", "id": "a"}))
    record = {"problem": "1+1?", "answer": "2", "unique_id": "one"}
    with pytest.raises(ValueError, match="line 2: the id 'one' comes twice"):
        MATH500.load(data=write(record, record))
    table = tmp_path / "mine.csv"
    table.write_text("Rank,Puzzles\n901,4 5 6 10\n901,1 2 3 4\n")
    with pytest.raises(ValueError, match="line 3: the id '901' comes twice"):
        GAME24.load(data=table)


def test_plain_files(write):
    path = write(
        {"question": "2+2?", "answer": 4, "id": "sum", "solution": "2+2=4"},
        {"question": "Capital of France?", "answer": "Paris"},
    )
    first, second = JSONL.load(data=path)
    assert first == Problem("jsonl/sum", "2+2?", "4", ("2+2=4",))
    assert second == Problem("jsonl/test/1", "Capital of France?", "Paris")
    assert JSONL.write(first) == "2+2=4\n#### 4"


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("{oops", "line 2: not a JSON record"),
        ({"question": "q"}, "line 2: the field 'answer' is missing, empty or not text"),
        ({"question": "q", "answer": "a", "id": "one"}, "line 2: the id 'one' comes twice"),
    ],
)
def test_a_malformed_line_is_named(write, bad, message):
    path = write({"question": "q", "answer": "1", "id": "one"}, bad)
    with pytest.raises(ValueError, match=message) as error:
        JSONL.load(data=path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_puzzles_from_files(write, tmp_path):
    first, second = GAME24.load(
        data=write({"puzzle": "4 5 6 10", "id": "a"}, {"puzzle": "1 1 1 1"})
    )
    assert first.id == "game24/a" and first.solution and not second.solution
    assert second.id == "game24/test/1"
    with pytest.raises(ValueError, match="line 1: '4 5 6' is no puzzle of four whole numbers"):
        GAME24.load(data=write({"puzzle": "4 5 6"}))
    table = tmp_path / "mine.csv"
    table.write_text("Puzzles,Note\n1 2 3 4,easy\n")
    assert [p.id for p in GAME24.load(data=table)] == ["game24/test/0"]
    table.write_text("Rank,Puzzles\n900,1 2 3 4\n901,4 5 6 10\none,1 1 1 1\n")
    with pytest.raises(ValueError, match="line 4: the rank 'one' is no whole number"):
        GAME24.load(data=table)
    table.write_text("Rank,Puzzles\n900,1 2 3 4\n901,4 5 6 10\n")
    assert [p.id for p in GAME24.load(data=table)] == ["game24/901"]
    assert [p.id for p in GAME24.load(data=table, split="train")] == ["game24/900"]
    table.write_text("Numbers\n")
    with pytest.raises(ValueError, match="line 1: there is no column Puzzles"):
        GAME24.load(data=table)


# ------------------------------------------------------------------------------- tasks and examples


def test_every_task_says_what_it_is():
    assert set(TASKS) == {"generated", "gsm8k", "math500", "game24", "jsonl"}
    assert all(find_task(name).name == name for name in TASKS)
    assert find_task("generated", steps=(6, 6)) == Generated(steps=(6, 6))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("math50", "did you mean 'math500'"),
        ("no.such.module:TASK", "There is no module 'no.such.module'"),
        ("reasoning.tasks:load_task", "load_task of the module reasoning.tasks is no task"),
        ("reasoning.tasks:NONE", "NONE of the module reasoning.tasks is no task"),
        (":NONE", "package.module:NAME, not ':NONE'"),
    ],
)
def test_what_is_no_task_is_refused(name, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        find_task(name)


def test_steps_are_of_generated_problems_only():
    with pytest.raises(ValueError, match="the task is 'gsm8k'"):
        load_task("gsm8k", steps=(1, 2))


@pytest.fixture
def worked(write):
    """A test file and a training file of each task that needs one, with questions in common."""

    def worked(task: str) -> tuple[str | None, str | None]:
        ask = {"math500": "problem", "game24": "puzzle"}.get(task, "question")
        if task == "generated":
            return None, None
        questions = ["1 2 3 4", "4 5 6 10", "1 1 4 6", "3 3 8 8"]
        answer = "#### 24" if task == "gsm8k" else "24"
        solution = "By luck.\n\\boxed{24}"
        if task == "gsm8k":
            records = [{ask: q, "answer": f"By luck.\n{answer}"} for q in questions]
        else:
            records = [{ask: q, "answer": answer, "solution": solution} for q in questions]
        test, train = write(*records[:2]), write(*records, name="train.jsonl")
        return str(test), str(train)

    return worked


@pytest.mark.parametrize("name", TASKS)
def test_shots_are_worked_examples_that_are_not_asked(name, worked):
    """Each ends as a solution of its task ends, is right, and is none of the questions."""
    task = find_task(name)
    data, train = worked(name)
    asked = task.load(data=data, limit=2)
    engine = ScriptedEngine(lambda text: [("\0", 1.0)])
    prompt = few_shot(task, 2, train, data, asked)
    assert prompt is not None and len(prompt.shots) == 2
    known = {p.question: p for p in task.examples(data, train)}
    for shot in prompt.shots:
        assert shot.question not in {problem.question for problem in asked}
        assert task.closing in shot.solution.splitlines()[-1]
        assert task.grade(shot.solution, known[shot.question]).correct
    text = engine.decode(prompt.encode(engine, asked[0].question))
    assert all(shot.solution in text for shot in prompt.shots)
    assert few_shot(task, 2, train, data, asked) == prompt


def test_examples_of_its_own_or_none(worked):
    math, _ = worked("math500")
    for task, data in ((MATH500, math), (GAME24, None), (Generated(), None)):
        asked = task.load(data=data, limit=2)
        prompt = few_shot(task, 3, None, data, asked)
        assert prompt is not None and len(prompt.shots) == 3
    with pytest.raises(ValueError, match="7 examples cannot be drawn from 6 problems"):
        few_shot(MATH500, 7, None, math, [])
    for task in (JSONL, GSM8K):
        with pytest.raises(ValueError, match="shots need shots_data"):
            few_shot(task, 1, None, math, [])
    data, train = worked("jsonl")
    for task in (JSONL, MATH500, GAME24):  # the same file, or the one asked of a folder
        for asked in (data, str(Path(data).parent)):
            with pytest.raises(ValueError, match="shots need shots_data"):
                few_shot(task, 1, data, asked, [])
    with pytest.raises(ValueError, match="3 examples cannot be drawn from 2 problems"):
        few_shot(JSONL, 3, train, data, JSONL.load(data=data))


TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)


@pytest.mark.parametrize("name", ["math500", "game24", "gsm8k"])
def test_a_chat_gets_the_examples_as_turns_and_the_instruction_of_its_task(name, worked, tmp_path):
    chat = TransformersEngine(save_tiny_model(tmp_path / "lm", template=TEMPLATE), device="cpu")
    task = find_task(name)
    data, train = worked(name)
    prompt = few_shot(task, 1, train, data, task.load(data=data))
    assert prompt is not None
    (shot,) = prompt.shots
    turns = [
        Turn("user", f"{task.instruction}\n\n{shot.question}"),
        Turn("assistant", shot.solution),
        Turn("user", f"{task.instruction}\n\nWhy?"),
    ]
    assert prompt.encode(chat, "Why?") == chat.encode_chat(turns)
    assert encode_ask(chat, "Why?") == chat.encode_chat([Turn("user", "Why?")])


@pytest.mark.parametrize("name", ["math500", "game24", "jsonl"])
def test_a_run_shows_the_examples_and_says_what_it_was(name, worked, tmp_path, monkeypatch):
    seen: list[str] = []

    def script(text: str) -> list[tuple[str, float]]:
        seen.append(text)
        return [("24\0", 1.0)]

    monkeypatch.setattr(reasoning, "load_lm", lambda _: ScriptedEngine(script))
    data, train = worked(name)
    given = {"strategy": best_of_n(n=2), "out": tmp_path / "run", "say": lambda line: None}
    evaluate(task=name, data=data, shots=1, shots_data=train, **given)
    said = name != "jsonl"  # a plain prompt of any question goes without
    assert all((find_task(name).instruction in text) is said for text in seen)
    assert all(text.count(find_task(name).plain.partition("{")[0]) == 2 for text in seen)
    assert len(records_of(tmp_path / "run")) == 2


# --------------------------------------------------------------------------------------- the recipe


def test_the_task_of_the_documents_is_answered_with_examples(tmp_path, monkeypatch):
    page = (Path(__file__).parents[2] / "docs/tasks.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    assert sum(bool(line.strip()) for line in code.splitlines()) < 25
    (tmp_path / "words.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)

    def script(text: str) -> list[tuple[str, float]]:
        assert text.startswith("Spell the word backwards.") and "#### ledom" in text
        word = text.rpartition("Question: ")[2].partition("\n")[0]
        return [(f"#### {word[::-1].upper()}\nand so on\0", 2.0), (f"#### {word}\0", 1.0)]

    monkeypatch.setattr(reasoning, "load_lm", lambda _: ScriptedEngine(script))
    strategy = self_consistency(n=25)
    summary = evaluate(
        task="words:REVERSING", strategy=strategy, shots=2, limit=3, out=tmp_path / "run"
    )
    assert summary["accuracy"]["mean"] == 1.0 and 0.5 < summary["mean"] < 0.9
    answers = [record["answer"] for record in records_of(tmp_path / "run")]
    assert answers == ["rennalp", "drawer", "maeb"]
    page = scaling(
        task="words:REVERSING",
        strategies=["greedy", "self_consistency", "tree_of_thoughts"],
        budgets=[1, 8],
        by=["nodes"],
        scorer=None,
        shots=2,
        limit=3,
        out=tmp_path / "curve",
        say=lambda line: None,
    )
    assert "on words:REVERSING" in page.read_text()
    assert find_task("words:REVERSING").answer("####  ") is None
    rows = list(csv.DictReader((page.parent / "curves.csv").open()))
    assert {float(row["accuracy"]) for row in rows if row["strategy"] == "greedy"} == {1.0}
