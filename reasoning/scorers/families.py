"""Reward models, each read as its authors read it."""

from __future__ import annotations

from typing import ClassVar, Literal

from reasoning.engines.base import Engine, Turn
from reasoning.scorers.base import Layout, ReadingScorer, one_token, tokenizer_of
from reasoning.world import Aggregate, Kind, Thought

POSITIVE = 1, 0
"""Options of a model with a head: its class 1 against its class 0."""


class StepScorer(ReadingScorer):
    """The `+`/`-` causal format of the embedded scorer.

    Each step's line ends in a tag; there the model's next-token probabilities of `good` and `bad`,
    made to sum to one, say how likely the solution is still right (Math-Shepherd, Wang et al.
    2024).

    Raises ValueError where the tag or a label is not exactly one token of the scorer's tokenizer.
    """

    aggregate: ClassVar[Aggregate] = "product"

    def __init__(
        self, engine: Engine, *, tag: str = "<step>", good: str = "+", bad: str = "-"
    ) -> None:
        self.tag = one_token(engine, tag)
        super().__init__(engine, (one_token(engine, good), one_token(engine, bad)))
        self.reserved |= {self.tag}
        self.newline = engine.encode("\n")

    def layout(self, thought: Thought, new: int) -> Layout | None:
        """See `ReadingScorer`."""
        tokens = list(self.engine.encode_prompt(thought.question))
        head, places = len(tokens), []
        for number, step in enumerate(thought.steps):
            # The scorer may have another tokenizer than the writer, but steps stay whole in both.
            text = self.plain(step.text.strip("\n"))
            if text is None:
                return None
            tokens += [*(self.newline if number else ()), *text, self.tag]
            places.append(len(tokens) - 1)
        return _of(tokens, places, new, head)


class MathShepherd(ReadingScorer):
    """`peiyi9979/math-shepherd-mistral-7b-prm` (Wang et al. 2024, arXiv 2312.08935).

    The model card's text is ``question Step 1: ... ки\\nStep 2: ... ки``; at each `ки` the softmax
    over the logits of `+` and `-` is read. The paper scores a solution by its worst step. A step
    that is not numbered yet gets its number, as all steps of the training data have one.

    Raises ValueError where the tokenizer does not give the card's ids: 12902 for the tag, 648 and
    387 for the labels.
    """

    aggregate: ClassVar[Aggregate] = "min"
    TAG, GOOD, BAD = 12902, 648, 387

    def __init__(self, engine: Engine) -> None:
        ids = (*engine.encode("ки"), *engine.encode("+ -"))
        if ids != (self.TAG, self.GOOD, self.BAD):
            raise ValueError(
                f"Math-Shepherd's tag and labels are the tokens {self.TAG}, {self.GOOD} and "
                f"{self.BAD}, and this tokenizer makes {', '.join(map(str, ids))} of them: it is "
                "not the tokenizer of that model"
            )
        super().__init__(engine, (self.GOOD, self.BAD))
        self.reserved |= {self.TAG}
        self.newline = engine.encode("\n")

    def layout(self, thought: Thought, new: int) -> Layout | None:
        """See `ReadingScorer`."""
        tokens = list(self.engine.encode(thought.question.strip(), start=True))
        head, places = len(tokens), []
        for number, step in enumerate(thought.steps):
            text = step.text.strip()
            text = text if text.startswith("Step ") else f"Step {number + 1}: {text}"
            piece = self._piece(f"{text} ки", first=not number)
            if piece[-1] != self.TAG or self.reserved.intersection(piece[:-1]):
                return None
            tokens += piece
            places.append(len(tokens) - 1)
        return _of(tokens, places, new, head)

    def _piece(self, text: str, *, first: bool) -> tuple[int, ...]:
        """Token ids of a step as in the whole text: after a space, or after a newline.

        The tokenizer puts a space before any text, which is the one after the question; after a
        newline there is none. No token spans a newline or the space before a tag.
        """
        if first:
            return self.engine.encode(text)
        return self.engine.encode(f"\n{text}")[len(self.newline) - 1 :]


class RLHFlow(ReadingScorer):
    """`RLHFlow/Llama3.1-8B-PRM-Deepseek-Data` and `-Mistral-Data` (Xiong et al. 2024,
    github.com/RLHFlow/RLHF-Reward-Modeling, math-rm/prm_evaluate.py).

    A conversation: each step is a user turn, the first one after the question and a space, and the
    assistant answers `+`. Read is the position before each answer, the softmax over `+` and `-`;
    a solution's score is the mean.

    Raises ValueError where the tokenizer has no chat template, or one in which the assistant's
    answer is not the token `+`, or in which a longer conversation does not begin with a shorter.
    """

    aggregate: ClassVar[Aggregate] = "mean"

    def __init__(self, engine: Engine) -> None:
        asked = [Turn("user", "1+1=2")]
        before = engine.encode_chat(asked)
        labels = []
        for label in "+-":
            answered = engine.encode_chat([*asked, Turn("assistant", label)])
            if answered[: len(before)] != before or len(answered) != len(before) + 1:
                raise ValueError(
                    f"the chat template of this model does not make one token of the answer "
                    f"{label!r}: it is no RLHFlow scorer"
                )
            labels.append(answered[-1])
        super().__init__(engine, (labels[0], labels[1]))

    def layout(self, thought: Thought, new: int) -> Layout | None:
        """See `ReadingScorer`."""
        texts = [step.text.strip() for step in thought.steps]
        if any(self.plain(text) is None for text in texts):
            return None
        turns = [Turn("user", f"{thought.question} {texts[0]}")]
        for text in texts[1:]:
            turns += [Turn("assistant", "+"), Turn("user", text)]
        ends = range(max(0, len(texts) - new - 1), len(texts))
        heads = [self.engine.encode_chat(turns[: 2 * number + 1]) for number in ends]
        tokens = heads[-1]
        if any(tokens[: len(head)] != head for head in heads):
            raise ValueError(
                "the chat template of this model changes earlier turns when later ones come: "
                "its steps cannot be scored one after the other"
            )
        places = [len(head) - 1 for head in heads]
        return Layout(tokens, tuple(places[-new:]), places[0] + 1 if len(texts) > new else 0)


class QwenPRM(ReadingScorer):
    """`Qwen/Qwen2.5-Math-PRM-7B`, `-72B` and `Qwen2.5-Math-7B-PRM800K` (Zhang et al. 2025,
    arXiv 2501.07301).

    In the chat template, with the card's system prompt, the assistant's steps are each closed by
    `<extra_0>`; there the softmax of a two-class head is read, class 1. The paper multiplies.

    Raises ValueError where `<extra_0>` is not one token.
    """

    aggregate: ClassVar[Aggregate] = "product"
    SYSTEM = "Please reason step by step, and put your final answer within \\boxed{}."

    def __init__(self, engine: Engine) -> None:
        self.tag = one_token(engine, "<extra_0>")
        super().__init__(engine, POSITIVE)
        self.reserved |= {self.tag}

    def layout(self, thought: Thought, new: int) -> Layout | None:
        """See `ReadingScorer`."""
        asked = [Turn("system", self.SYSTEM), Turn("user", thought.question)]
        tokens = list(self.engine.encode_chat(asked))
        head, places = len(tokens), []
        for step in thought.steps:
            text = self.plain(step.text.strip())
            if text is None:
                return None
            tokens += [*text, self.tag]
            places.append(len(tokens) - 1)
        return _of(tokens, places, new, head)


class SkyworkPRM(ReadingScorer):
    """`Skywork/Skywork-o1-Open-PRM-Qwen-2.5-1.5B` and `-7B` (He et al. 2024,
    github.com/SkyworkAI/skywork-o1-prm-inference, model_utils/io_utils.py).

    The begin-of-text token, the question, a newline, and the solution's lines, blank ones too, each
    closed by the newline's token. The authors read the sigmoid of a value head at every newline; a
    step's score is the one at the end of its last line that is not blank, so that it is the same
    whether blank lines follow or not. They name no aggregate: the mean over steps is the usual one.

    Raises ValueError where a newline is not one token.
    """

    aggregate: ClassVar[Aggregate] = "mean"

    def __init__(self, engine: Engine) -> None:
        self.newline = one_token(engine, "\n")
        super().__init__(engine, POSITIVE)
        self.start = tokenizer_of(engine).bos_token or ""

    def layout(self, thought: Thought, new: int) -> Layout | None:
        """See `ReadingScorer`."""
        tokens = list(self.engine.encode(f"{self.start}{thought.question}\n"))
        head, places = len(tokens), []
        for step in thought.steps:
            place = 0
            for line in step.text.removesuffix("\n").split("\n"):
                text = self.plain(line)
                if text is None:
                    return None
                tokens += [*text, self.newline]
                if line.strip() or not place:
                    place = len(tokens) - 1
            places.append(place)
        return _of(tokens, places, new, head)


class OutcomeScorer(ReadingScorer):
    """A reward model with one logit at the end of the whole conversation (Cobbe et al. 2021).

    Only finished solutions are judged, once. The question is the user's turn of the tokenizer's
    chat template and the solution the assistant's, to the end of the turn; without a template they
    are two paragraphs and the end-of-text token. The score is the logit's sigmoid.
    """

    kind: ClassVar[Kind] = "terminal"
    aggregate: ClassVar[Aggregate] = "last"

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine, POSITIVE)
        self.tokenizer = tokenizer_of(engine)

    def unread(self, thought: Thought, added: int) -> int:
        """See `ReadingScorer`."""
        return int(thought.finish == "answered" and not thought.scores)

    def layout(self, thought: Thought, new: int) -> Layout | None:
        """See `ReadingScorer`."""
        question, text = thought.question, thought.text.strip("\n")
        if self.plain(text) is None:
            return None
        if self.tokenizer.chat_template:
            turns = [
                {"role": "user", "content": question},
                {"role": "assistant", "content": text},
            ]
            tokens = self.engine.encode(self.tokenizer.apply_chat_template(turns, tokenize=False))
        else:
            end = self.tokenizer.eos_token or ""
            tokens = self.engine.encode(f"{question}\n\n{text}{end}", start=True)
        return Layout(tokens, (len(tokens) - 1,), 0)


def _of(tokens: list[int], places: list[int], new: int, head: int) -> Layout:
    """The layout of steps that end at `places`, after a head of so many tokens."""
    shared = places[-new - 1] + 1 if len(places) > new else head
    return Layout(tuple(tokens), tuple(places[-new:]), shared)


Family = Literal["steps", "math_shepherd", "rlhflow", "qwen_prm", "skywork_prm", "outcome"]
FAMILIES: dict[Family, type[ReadingScorer]] = {
    "steps": StepScorer,
    "math_shepherd": MathShepherd,
    "rlhflow": RLHFlow,
    "qwen_prm": QwenPRM,
    "skywork_prm": SkyworkPRM,
    "outcome": OutcomeScorer,
}
WITH_HEAD: tuple[Family, ...] = ("qwen_prm", "skywork_prm", "outcome")
