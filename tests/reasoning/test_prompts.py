"""How questions are put."""

from __future__ import annotations

import pytest

from reasoning.engines import ScriptedEngine, TransformersEngine, Turn
from reasoning.prompts import INSTRUCTION, Prompt, Shot, pick_shots
from reasoning.tasks import GSM8K, generate_problems
from tests.language import adding, save_tiny_model

TEMPLATE = (
    "{% for m in messages %}<s>[{{ m.role }}] {{ m.content }}"
    "{% if not loop.last %}</s>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}</s><s>[assistant] {% endif %}"
)
SHOTS = (Shot("1+1?", "1+1=2\n#### 2\n"), Shot("2+2?", "2+2=4\n#### 4"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return TransformersEngine(save_tiny_model(tmp_path_factory.mktemp("lm")), device="cpu")


@pytest.fixture(scope="module")
def chat(tmp_path_factory):
    folder = save_tiny_model(tmp_path_factory.mktemp("chat"), template=TEMPLATE)
    return TransformersEngine(folder, device="cpu")


def said(engine, tokens):
    return engine.tokenizer.decode(list(tokens))


def test_zero_shot_is_what_the_engine_says(plain, chat):
    for engine in (plain, chat):
        assert Prompt().encode(engine, "How many?") == engine.encode_prompt("How many?")


def test_few_shots_in_a_plain_prompt(plain):
    tokens = Prompt(shots=SHOTS, instruction="Think.").encode(plain, "How {many}?")
    assert tokens[0] == plain.tokenizer.bos_token_id and tokens.count(tokens[0]) == 1
    assert plain.decode(tokens) == (
        "Think.\n\nQuestion: 1+1?\nAnswer:\n1+1=2\n#### 2\n\n"
        "Question: 2+2?\nAnswer:\n2+2=4\n#### 4\n\nQuestion: How {many}?\nAnswer:\n"
    )


def test_few_shots_in_a_chat_are_turns(chat):
    tokens = Prompt(shots=SHOTS[:1]).encode(chat, "Why?")
    turns = [
        Turn("user", f"{INSTRUCTION}\n\n1+1?"),
        Turn("assistant", "1+1=2\n#### 2"),
        Turn("user", f"{INSTRUCTION}\n\nWhy?"),
    ]
    assert tokens == chat.encode_chat(turns)
    assert said(chat, tokens).endswith("Why?</s><s>[assistant] ")


def test_a_last_assistant_turn_stays_open(chat):
    turns = [Turn("user", "Why?"), Turn("assistant", "Because")]
    assert said(chat, chat.encode_chat(turns)) == "<s>[user] Why?</s><s>[assistant] Because"


def test_a_chat_can_be_refused(chat, plain):
    text = said(chat, Prompt(chat=False).encode(chat, "Why?"))
    assert text == "<s>Question: Why?\nAnswer:\n"
    for engine in (plain, ScriptedEngine(adding)):
        with pytest.raises(ValueError, match="has no chat template"):
            Prompt(chat=True).encode(engine, "Why?")


def test_a_template_without_the_question_is_refused():
    with pytest.raises(ValueError, match=r"must hold \{question\}"):
        Prompt(plain="Question:")


def test_shots_are_drawn_without_replacement_and_end_in_the_answer():
    problems = generate_problems("train", 20, (2, 4), 0)
    shots = pick_shots(problems, 20, write=GSM8K.write, seed=3)
    assert sorted(shots) == sorted(Shot(p.question, GSM8K.write(p)) for p in problems)
    few, others = (pick_shots(problems, 5, write=GSM8K.write, seed=s) for s in (3, 4))
    assert few == shots[:5] != others
    unsolved = [problem._replace(solution=()) for problem in problems]
    with pytest.raises(ValueError, match="1 examples cannot be drawn from 0 problems"):
        pick_shots(unsolved, 1, write=GSM8K.write)
