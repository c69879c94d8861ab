"""Tiny reward models of the public families, and a Qwen2 that chats: random weights, saved in the
hub's format with the architectures, special tokens, token ids and chat templates of the published
ones."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from reasoning.training.tokenizer import train_tokenizer

SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,
    "tie_word_embeddings": False,
}
QWEN = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA = (
    "<|begin_of_text|>{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>"
    "\n\n{{ m['content'] | trim }}<|eot_id|>{% endfor %}{% if add_generation_prompt %}"
    "<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
TEXTS = [
    "How many eggs? Step 1: 3+4=7 eggs are there.\n\nSo 7 - 2 = 5.\n#### 5",
    "The answer is 18",
]
FAMILY_NAMES = ("steps", "math_shepherd", "rlhflow", "qwen_prm", "skywork_prm", "outcome")


def save_prm(family: str, folder: Path) -> Path:
    """A tiny model of a family; the folder is called as the published model is."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return _BUILDERS[family](folder)


def _steps(folder: Path) -> Path:
    tokenizer = train_tokenizer(TEXTS, 320)
    config = LlamaConfig(vocab_size=len(tokenizer), bos_token_id=1, eos_token_id=2, **SIZES)
    config.scorer_family = "steps"
    return _saved(LlamaForCausalLM(config), tokenizer, folder / "tiny")


def _math_shepherd(folder: Path) -> Path:
    tokenizer = _mistral_tokenizer()
    config = MistralConfig(vocab_size=len(tokenizer), bos_token_id=1, eos_token_id=2, **SIZES)
    return _saved(MistralForCausalLM(config), tokenizer, folder / "math-shepherd-mistral-7b-prm")


def _rlhflow(folder: Path) -> Path:
    specials = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    tokenizer = _byte_tokenizer(specials, LLAMA, bos=specials[0], eos=specials[3])
    config = LlamaConfig(vocab_size=len(tokenizer), bos_token_id=0, eos_token_id=3, **SIZES)
    return _saved(LlamaForCausalLM(config), tokenizer, folder / "RLHFlow-PRM")


def _qwen_prm(folder: Path) -> Path:
    head = {"score.0": (64, 64), "score.2": (2, 64)}
    name = "Qwen2ForProcessRewardModel"
    return _qwen(folder / "Qwen2.5-Math-PRM", name, head, bias=True)


def _skywork_prm(folder: Path) -> Path:
    head = {"v_head.summary": (1, 64)}
    name = "Qwen2ForPrmModel"
    return _qwen(folder / "Skywork-PRM", name, head, bias=True, bos="<|endoftext|>")


def _outcome(folder: Path) -> Path:
    name = "Qwen2ForSequenceClassification"
    return _qwen(folder / "orm", name, {"score": (1, 64)}, bias=False, id2label={"0": "LABEL_0"})


def save_qwen(folder: Path, *, bos: str | None = None) -> Path:
    """A tiny Qwen2 that ends its turn often."""
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<extra_0>"]
    tokenizer = _byte_tokenizer(specials, QWEN, bos=bos, eos=specials[2])
    model = Qwen2ForCausalLM(Qwen2Config(vocab_size=len(tokenizer), eos_token_id=2, **SIZES))
    model.generation_config.eos_token_id = [2, *range(10, len(tokenizer), 8)]
    return _saved(model, tokenizer, folder)


def _qwen(
    folder: Path,
    architecture: str,
    head: dict[str, tuple[int, int]],
    *,
    bias: bool,
    bos: str | None = None,
    **more: Any,
) -> Path:
    """A Qwen2 whose checkpoint holds a head; its configuration points to code that is not there."""
    save_qwen(folder, bos=bos)
    tensors = Qwen2ForCausalLM.from_pretrained(folder).state_dict()
    for name, shape in head.items():
        tensors[f"{name}.weight"] = torch.randn(shape) / 8
        tensors |= {f"{name}.bias": torch.randn(shape[0]) / 8} if bias else {}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    written = json.loads((folder / "config.json").read_text())
    remote = {"AutoConfig": "nowhere.Config", "AutoModel": "nowhere.Model"}
    written |= {"architectures": [architecture], "auto_map": remote, **more}
    (folder / "config.json").write_text(json.dumps(written))
    return folder


def _saved(model: Any, tokenizer: PreTrainedTokenizerFast, folder: Path) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _byte_tokenizer(
    specials: list[str], template: str, *, bos: str | None, eos: str
) -> PreTrainedTokenizerFast:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(TEXTS, trainer)
    others = [one for one in specials if one not in (bos, eos)]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token=bos, eos_token=eos, additional_special_tokens=others
    )
    tokenizer.chat_template = template
    return tokenizer


def _mistral_tokenizer() -> PreTrainedTokenizerFast:
    """Sentence pieces with byte fallback, and Mistral's ids for what Math-Shepherd reads."""
    ids = {"<unk>": 0, "<s>": 1, "</s>": 2}
    ids |= {f"<0x{byte:02X}>": 3 + byte for byte in range(256)}
    ids |= {"▁-": 387, "▁+": 648, "▁ки": 12902, "▁": 400, "к": 401, "и": 402, "ки": 403}
    letters = string.digits + string.ascii_letters + "+-=:?#.<>*/"
    ids |= {letter: 410 + number for number, letter in enumerate(letters)}
    free = iter(set(range(12903)) - set(ids.values()))
    ids |= {f"<free{number}>": number for number in free}
    merges = [("▁", "-"), ("▁", "+"), ("к", "и"), ("▁", "ки")]
    core = Tokenizer(models.BPE(ids, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    core.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    core.add_special_tokens([AddedToken(one, special=True) for one in ("<unk>", "<s>", "</s>")])
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


_BUILDERS = {
    "steps": _steps,
    "math_shepherd": _math_shepherd,
    "rlhflow": _rlhflow,
    "qwen_prm": _qwen_prm,
    "skywork_prm": _skywork_prm,
    "outcome": _outcome,
}
