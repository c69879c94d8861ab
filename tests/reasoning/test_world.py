"""Text as a world: exact tokens, ends, candidates, scores."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch

from mbrl_core import generator
from reasoning.engines import Completion, Request, ScoreRequest, ScriptedEngine, TransformersEngine
from reasoning.engines.base import Sampling
from reasoning.scorers import StepScorer
from reasoning.strategies import FinalAnswer
from reasoning.training.scorer import tagged
from reasoning.training.tokenizer import PROMPT, STEP_TAG
from reasoning.world import Continuation, LanguagePolicy, Step, TextWorld, Thought, in_lines
from tests.language import Checker, recite, save_tiny_model, scripted

answers = FinalAnswer()

QUESTIONS = ["3+4+5", "10+20", "1+2+3+4"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("lm"))


@pytest.fixture
def engine(folder):
    return TransformersEngine(folder, device="cpu")


def asked(engine, *questions: str) -> list[Thought]:
    return [Thought(question, engine.encode_prompt(question)) for question in questions]


def step_of(text: str) -> Step:
    return Step(tuple(map(ord, text)), text)


def lines(*texts: str, finish: str = "stop", logprob: float = 0.0) -> Continuation:
    return Continuation(tuple(map(step_of, texts)), finish, logprob)  # type: ignore[arg-type]


def moved(world: TextWorld, thought: Thought, *actions: Continuation) -> list:
    """The transitions of one action after the other."""
    steps = []
    for action in actions:
        steps.append(world.step([thought], [action], rng=generator(0)))
        (thought,) = steps[-1].state
    return steps


def saying(*choices: tuple[str, float]) -> ScriptedEngine:
    return ScriptedEngine(lambda _: choices)


# ------------------------------------------------------------------------------ tokens and steps


@pytest.mark.parametrize("unit", ["solution", "step"])
def test_steps_hold_the_generated_tokens_exactly(engine, unit):
    (thought,) = asked(engine, "How many eggs?")
    tokens = recite(engine, thought.prompt, "3 é 漢字 = 4\n\n   tabs\tand  spaces\nunfinished 漢")
    world = TextWorld()
    policy = LanguagePolicy(engine, unit, Sampling(0.0))
    while thought.finish == "open":
        action = policy.propose([thought], 1, rng=generator(0)).actions[0]
        assert len(action.steps) == (3 if unit == "solution" else 1)
        (thought,) = world.step([thought], [action], rng=generator(0)).state
    assert thought.tokens == thought.prompt + tokens
    assert all(step.text == engine.decode(step.tokens) for step in thought.steps)
    assert [step.text[-1] for step in thought.steps] == ["\n", "\n", "漢"]
    assert thought.text == engine.decode(tokens)


def test_a_solution_in_one_go_or_step_by_step_is_the_same():
    engine, world = scripted(), TextWorld()
    (whole,) = (thought,) = asked(engine, "3+4+5")
    policy = LanguagePolicy(engine, "solution", Sampling(0.0))
    (whole,) = world.step(
        [whole], policy.propose([whole], 1, rng=generator(0)).actions, rng=generator(0)
    ).state
    policy = LanguagePolicy(engine, "step", Sampling(0.0))
    while thought.finish == "open":
        action = policy.propose([thought], 1, rng=generator(0)).actions
        (thought,) = world.step([thought], action, rng=generator(0)).state
    assert thought == whole
    assert thought.text == "3+4=8\n8+5=14\n#### 14\n" and thought.finish == "answered"


@pytest.mark.parametrize("unit", ["solution", "step"])
@pytest.mark.parametrize(
    ("separator", "steps"),
    [
        ("newline", ["\n\nA\n", "\n \nB\n", "C\n", "\n\n#### 3\n"]),
        ("blank_line", ["\n\nA\n\n", " \nB\nC\n\n", "\n#### 3\n"]),
    ],
)
def test_blank_lines_are_no_steps(unit, separator, steps):
    said = "".join(steps) + "more\n\0"
    engine = ScriptedEngine(lambda text: [(said[len(text) - 1 :], 1.0)])
    policy = LanguagePolicy(engine, unit, Sampling(0.0), separator=separator)
    thought = Thought("q", (ord("q"),))
    while thought.finish == "open":
        proposal = policy.propose([thought], 1, rng=gen())
        assert proposal.actions[0].steps
        (step,) = moved(TextWorld(), thought, *proposal.actions)
        (thought,) = step.state
    assert [step.text for step in thought.steps] == steps
    assert thought.finish == "answered" and thought.lines == in_lines(thought.text)


@pytest.mark.parametrize("unit", ["solution", "step"])
def test_blank_lines_at_the_end_belong_to_no_step(unit):
    engine = ScriptedEngine(lambda text: [("A\n\n\n\0"[len(text) - 1 :], 1.0)])
    policy, thought = LanguagePolicy(engine, unit, Sampling(0.0)), Thought("q", (ord("q"),))
    while thought.finish == "open":
        action = policy.propose([thought], 1, rng=gen()).actions
        (thought,) = TextWorld().step([thought], action, rng=gen()).state
    assert (thought.text, thought.finish) == ("A\n", "answered")


def test_nothing_but_blank_lines_is_cut():
    engine = ScriptedEngine(lambda text: [("\n", 1.0)])
    proposal = LanguagePolicy(engine, "step", Sampling(max_tokens=5)).propose(
        [Thought("q", (ord("q"),))], 1, rng=gen()
    )
    assert proposal.actions[0].finish == "length" and proposal.tokens.decoded.item() == 5


def test_nothing_after_a_closing_line_is_kept_or_judged():
    engine = saying(("2+2=4\n#### 4\nno, 5\n#### 5\n\0", 0.5), ("x\0", 0.5))
    proposal = LanguagePolicy(engine, "solution", Sampling(0.0)).propose(
        asked(engine, "q"), 1, rng=[gen()]
    )
    (action,) = proposal.actions
    assert "".join(step.text for step in action.steps) == "2+2=4\n#### 4\n"
    assert action.finish == "eos"
    assert proposal.tokens.decoded.tolist() == [len("2+2=4\n#### 4\nno, 5\n#### 5\n\0")]


def gen() -> torch.Generator:
    return generator(0)


@pytest.mark.parametrize("unit", ["solution", "step"])
def test_an_answer_below_its_mark_is_generated(unit):
    said = "2+2=4\n####\n\n4\nno, 5\n\0"
    engine = ScriptedEngine(lambda text: [(said[len(text) - 1 :], 1.0)])
    policy, world = LanguagePolicy(engine, unit, Sampling(0.0)), TextWorld()
    thought = Thought("q", tuple(engine.encode("q")))
    while thought.finish == "open":
        actions = policy.propose([thought], 1, rng=generator(0)).actions
        (thought,) = world.step([thought], actions, rng=generator(0)).state
    assert thought.text == "2+2=4\n####\n\n4\n" and thought.finish == "answered"
    assert thought.answer == "4"


@pytest.mark.parametrize("unit", ["solution", "step"])
@pytest.mark.parametrize("text", ["2+2=4 and so on and on\n", "#### 12345"])
def test_what_reaches_its_limit_is_cut_and_is_no_answer(unit, text):
    engine = saying((text + "\0", 1.0))
    policy = LanguagePolicy(engine, unit, Sampling(0.0, max_tokens=8))
    (state,) = asked(engine, "q")
    (action,) = policy.propose([state], 1, rng=gen()).actions
    ((state,), reward, discount, _) = TextWorld().step([state], [action], rng=gen())
    assert state.finish == "cut" and state.text == text[:8]
    assert (reward.item(), discount.item()) == (-math.inf, 0)
    assert answers([state]) == [None]


def test_an_end_without_a_closing_line_is_an_answer_too():
    (step,) = moved(TextWorld(Checker()), Thought("q", (1,)), lines("1+1=2", finish="eos"))
    assert step.state[0].finish == "answered" and answers(step.state) == ["2"]


# ------------------------------------------------------------------------------ the context


class Narrow(ScriptedEngine):
    """A scripted engine of a small context, that notes the room it is left."""

    context = 20

    def generate(self, requests: list[Request]) -> list[Completion]:
        self.rooms = [request.max_tokens for request in requests]
        assert all(len(r.tokens) + r.max_tokens <= self.context for r in requests)
        return super().generate(requests)


def test_the_room_left_in_the_context_limits_a_step():
    engine = Narrow(lambda _: [("0123456789\n", 1.0)])
    start = Thought("q", engine.encode("q\n"))
    policy = LanguagePolicy(engine, "step", Sampling(0.0, max_tokens=15))
    (step,) = moved(TextWorld(), start, *policy.propose([start], 1, rng=gen()).actions)
    assert engine.rooms == [15] and step.state[0].finish == "open"
    (step,) = moved(TextWorld(), step.state[0], *policy.propose(step.state, 1, rng=gen()).actions)
    assert engine.rooms == [7] and step.state[0].finish == "cut"
    assert len(step.state[0].tokens) == engine.context


@pytest.mark.parametrize("merge", [False, True])
def test_a_solution_that_filled_the_context_is_cut_and_stops_no_other(merge):
    engine = Narrow(lambda _: [("0123\n", 1.0)])
    full = Thought("q", engine.encode("q\n"), (step_of("x" * 17 + "\n"),))
    (other,) = asked(engine, "q")
    policy = LanguagePolicy(engine, "step", Sampling(0.8), merge)
    for state in ([full, other], [full]):
        proposal = policy.propose(state, 3, rng=gen())
        width = proposal.log_prior.shape[1]
        assert proposal.tokens.decoded[0] == 0
        assert engine.rooms == [18] * 3
        (step,) = moved(TextWorld(), full, proposal.actions[0])
        assert step.state[0].finish == "cut" and step.state[0].steps == full.steps
        assert len(proposal.actions) == width * len(state)


def test_a_question_that_fills_the_context_is_refused(engine):
    with pytest.raises(ValueError, match="do not fit in the 256 tokens"):
        LanguagePolicy(engine).propose(asked(engine, "eggs " * 300), 1, rng=gen())


# ------------------------------------------------------------------------------ candidates


@pytest.mark.parametrize("number", [1, 5, 40])
def test_equal_candidates_merge_into_one_with_their_count(number):
    engine = scripted()
    state = asked(engine, *QUESTIONS)
    apart = LanguagePolicy(engine).propose(state, number, rng=gen())
    merged = LanguagePolicy(engine, merge=True).propose(state, number, rng=gen())
    width = merged.log_prior.shape[1]
    assert len(merged.actions) == len(state) * width
    assert merged.tokens.decoded.equal(apart.tokens.decoded)
    for row in range(len(state)):
        texts = [a.steps[0].text for a in apart.actions[row * number : (row + 1) * number]]
        counts = Counter(texts).most_common()  # ties in the order first seen
        priors = merged.log_prior[row]
        held = int((priors > -math.inf).sum())
        kept = [a.steps[0].text for a in merged.actions[row * width : row * width + held]]
        assert list(zip(kept, priors.exp().tolist(), strict=False)) == [
            (text, pytest.approx(count)) for text, count in counts
        ]
        assert (priors[held:] == -math.inf).all()


def test_unmerged_candidates_are_all_kept():
    engine = scripted()
    proposal = LanguagePolicy(engine, "solution").propose(asked(engine, *QUESTIONS), 7, rng=gen())
    assert proposal.log_prior.tolist() == [[0.0] * 7] * 3 and len(proposal.actions) == 21


def test_a_state_draws_from_its_own_generator():
    engine = scripted()
    state, policy = asked(engine, *QUESTIONS), LanguagePolicy(engine)
    together = policy.propose(state, 4, rng=[generator(i) for i in range(3)]).actions
    for row in (2, 0, 1):
        alone = policy.propose([state[row]], 4, rng=[generator(row)]).actions
        assert alone == together[4 * row : 4 * row + 4]


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"unit": "word"}, "unit must be solution, step or list, not 'word'"),
        ({"separator": "\n"}, r"separator must be newline or blank_line, not '\\n'"),
    ],
)
def test_a_policy_refuses_what_makes_no_sense(wrong, match):
    with pytest.raises(ValueError, match=match):
        LanguagePolicy(scripted(), **wrong)


# ------------------------------------------------------------------------------ scores


def test_only_new_steps_are_scored_and_scores_are_kept():
    checker = Checker()
    world = TextWorld(checker)
    actions = lines("3+4=7\n"), lines("7+5=13\n", "13+1=14\n"), lines("#### 14\n")
    steps = moved(world, Thought("q", (1,)), *actions)
    assert [new for _, new in checker.asked] == [1, 2, 1]
    assert [t.state[0].scores for t in steps] == [(0.9,), (0.9, 0.2, 0.9), (0.9, 0.2, 0.9, 1.0)]
    read = [sum(len(step.tokens) for step in action.steps) for action in actions]
    assert [t.tokens.scored.item() for t in steps] == read
    before = len(checker.asked)
    world.value([t.state[0] for t in steps])
    assert len(checker.asked) == before, "a value is read from the scores, not asked anew"


@pytest.mark.parametrize(
    ("aggregate", "score"), [("product", 0.162), ("min", 0.2), ("mean", 2 / 3), ("last", 0.9)]
)
def test_aggregates(aggregate, score):
    world = TextWorld(Checker(), aggregate)
    (step,) = moved(world, Thought("q", (1,)), lines("1+1=2\n", "2+2=5\n", "5+1=6\n"))
    assert world.value(step.state).item() == pytest.approx(score)


@pytest.mark.parametrize("lm_weight", [0.0, 0.25, 1.0])
def test_the_models_own_probability_is_weighed_against_the_scorers_word(lm_weight):
    """score^(1 - w) * P(solution)^w, and the scorer alone where the engine tells none."""
    texts = "1+1=2\n", "2+2=5\n", "#### 5\n"
    world = TextWorld(Checker(), lm_weight=lm_weight)
    (step,) = moved(world, Thought("q", (1,)), lines(*texts, logprob=-2.0))
    assert step.reward.item() == pytest.approx(0.18 ** (1 - lm_weight) * math.exp(-2 * lm_weight))
    (step,) = moved(world, Thought("q", (1,)), lines(*texts, logprob=math.nan))
    assert step.reward.item() == pytest.approx(0.18)


def test_a_weight_that_weighs_nothing_is_refused():
    with pytest.raises(ValueError, match=r"lm_weight must be between 0 and 1, not 1\.5"):
        TextWorld(Checker(), lm_weight=1.5)
    with pytest.raises(ValueError, match=r"lm_weight=0\.5 weighs .* and there is no scorer"):
        TextWorld(lm_weight=0.5)


def test_an_unknown_aggregate_is_refused():
    with pytest.raises(ValueError, match="one of product, min, mean, last, not 'sum'"):
        TextWorld(aggregate="sum")  # type: ignore[arg-type]


def test_the_value_is_a_potential_and_the_reward_comes_with_the_last_step_alone():
    world = TextWorld(Checker())
    start = Thought("q", (1,))
    assert world.value([start]).tolist() == [0.5]
    steps = moved(world, start, lines("1+1=2\n"), lines("2+2=5\n"), lines("#### 5\n"))
    assert [t.reward.item() for t in steps] == [0, 0, pytest.approx(0.18)]
    assert [t.discount.item() for t in steps] == [1, 1, 0]
    values = [world.value(t.state).item() for t in steps]
    assert values == [pytest.approx(0.9), pytest.approx(0.18), pytest.approx(0.18)]


@pytest.mark.parametrize("unit", ["solution", "step"])
def test_without_a_scorer_the_score_is_the_tokens_mean_probability(unit):
    """Whatever the model would have gone on to say, and how it ended, counts for nothing."""
    engine, world = scripted(), TextWorld()
    (thought,) = asked(engine, "3+4+5")
    while thought.finish == "open":
        action = (
            LanguagePolicy(engine, unit, Sampling(0.0)).propose([thought], 1, rng=gen()).actions
        )
        (thought,) = world.step([thought], action, rng=gen()).state
    probability = (5 / 11) * (5 / 11) * (3 / 4)
    assert thought.text == "3+4=8\n8+5=14\n#### 14\n"
    assert world.score(thought) == pytest.approx(probability ** (1 / len(thought.text)))


def test_saying_nothing_is_worth_nothing():
    (step,) = moved(TextWorld(), Thought("q", (1,)), lines(finish="eos"))
    assert step.state[0].finish == "answered" and step.reward.item() == 0


# ------------------------------------------------------------------------------ the step scorer


SOLUTION = ("3+4=7 eggs.\n", "7+5=12 é\n", "#### 12")


def thought_of(*texts: str) -> Thought:
    return Thought("How many eggs?", (1,), tuple(step_of(text) for text in texts))


def test_the_scorer_reads_what_it_was_trained_on(engine):
    scorer = StepScorer(engine)
    request = scorer.request(thought_of(*SOLUTION), 2)
    lines = [text.strip("\n") for text in SOLUTION]
    tokenizer = engine.tokenizer
    body = tokenizer(tagged(lines), add_special_tokens=False)["input_ids"]
    prompt = tokenizer(PROMPT.format(question="How many eggs?"))["input_ids"]
    assert list(request.tokens) == prompt + body
    tag = tokenizer.convert_tokens_to_ids(STEP_TAG)
    tags = [i for i, token in enumerate(request.tokens) if token == tag]
    assert list(request.positions) == tags[-2:] and request.shared == tags[0] + 1
    newline = engine.encode("\n")
    assert all(request.tokens[i + 1 : i + 1 + len(newline)] == newline for i in tags[:-1])


def test_a_score_is_the_models_belief_in_plus_over_minus(engine):
    scorer = StepScorer(engine)
    thought = thought_of(*SOLUTION)
    ((scores,), (read,)) = scorer.score([thought], [3])
    request = scorer.request(thought, 3)
    with torch.inference_mode():
        logits = engine.model(input_ids=torch.tensor([request.tokens])).logits[0]
    signs = [engine.tokenizer.convert_tokens_to_ids(sign) for sign in "+-"]
    wanted = logits[list(request.positions)][:, signs].softmax(-1)[:, 0]
    assert scores == pytest.approx(wanted.tolist(), abs=1e-4)
    assert read == len(request.tokens)


def test_all_steps_at_once_score_as_one_by_one(engine):
    scorer = StepScorer(engine)
    whole = thought_of(*SOLUTION)
    ((together,), _) = scorer.score([whole], [3])
    thoughts = [thought_of(*SOLUTION[: i + 1]) for i in range(3)]
    one_by_one, _ = scorer.score([*thoughts, whole, whole], [1, 1, 1, 0, 2])
    assert [s for scores in one_by_one[:3] for s in scores] == pytest.approx(together, abs=1e-4)
    assert one_by_one[3] == () and one_by_one[4] == pytest.approx(together[1:], abs=1e-4)


def test_no_new_step_asks_nothing_of_the_model():
    engine = scripted()
    scores, read = StepScorer(engine, tag="~").score([thought_of(*SOLUTION)], [0])
    assert (scores, read, engine.calls) == ([()], [0], 0)


def test_ids_are_those_of_the_scorers_tokenizer():
    class Listening(ScriptedEngine):
        def score(self, requests: list[ScoreRequest]) -> list[torch.Tensor]:
            self.heard = requests
            return super().score(requests)

    engine = Listening(lambda _: [("", 1.0)], lambda text, o: {"y": 3.0, "n": 1.0}[o])
    scorer = StepScorer(engine, tag="~", good="y", bad="n")
    assert scorer.score([thought_of("a\n", "b")], [2])[0] == [pytest.approx((0.75, 0.75))]
    (request,) = engine.heard
    assert engine.decode(request.tokens) == "How many eggs?\na~\nb~"
    assert request.options == (ord("y"), ord("n"))


@pytest.mark.parametrize("part", ["tag", "good", "bad"])
def test_a_tag_or_label_of_several_tokens_is_refused(part):
    with pytest.raises(ValueError, match="must have '<x>' as one token, and it makes 3"):
        StepScorer(scripted(), **{"tag": "~", part: "<x>"})
