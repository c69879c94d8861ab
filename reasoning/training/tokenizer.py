"""Tokenizer of the embedded model: byte-level BPE in the hub's format.

Digits, ``+ - * / = < >`` and the newline are always tokens of their own, so that numbers are read
digit by digit and a text can be cut at the end of a step exactly.
"""

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

PAD, BOS, EOS, STEP_TAG = "<pad>", "<s>", "</s>", "<step>"
PROMPT = "Question: {question}\nAnswer:\n"
"""Prompt of the embedded model; ``encode`` puts the bos token before it."""

_PIECES = r"\n|[0-9]|[+\-*/=<>]|#+| ?[A-Za-z]+|[^\sA-Za-z0-9+\-*/=<>#]+|[^\S\n]+"


def train_tokenizer(texts: Iterable[str], vocab_size: int = 1024) -> PreTrainedTokenizerFast:
    """Learn the merges from ``texts``; any text at all can be encoded with the result.

    Encoding with special tokens puts ``<s>`` in front and nothing behind. The vocabulary holds
    ``<pad>``, ``<s>``, ``</s>`` and the tag ``<step>`` that the step scorer reads.
    """
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, BOS, EOS, STEP_TAG],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    core.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, core.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        additional_special_tokens=[STEP_TAG],
        clean_up_tokenization_spaces=False,
        model_max_length=1024,
    )


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: str | Path) -> None:
    """Write ``tokenizer.json`` and its configuration so that ``AutoTokenizer`` loads them."""
    tokenizer.save_pretrained(str(folder))
