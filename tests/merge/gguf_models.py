"""Tiny models of every architecture that GGUF files are written of, with tokenizers like theirs."""

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast
from transformers.tokenization_utils_base import generate_merges

from tests.data.conftest import SENTENCES

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace("{1,3}", "")
MARKS = ["<|begin|>", "<|end|>", "<|turn|>"]
TEMPLATE = (
    "{{ bos_token }}{% for turn in messages %}{{ '<|turn|>' + turn['role'] + '\n' + turn['content'] + eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|turn|>assistant\n' }}{% endif %}"
)


def byte_level(split: str | None = None, *, nfc: bool = False, ignore_merges: bool = False) -> Any:
    """A byte-level BPE that cuts texts by an expression, GPT-2's if none is given; it has a token that is no mark."""
    made = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    alphabet = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split is None)
    cuts = [pre_tokenizers.Split(Regex(split), "isolated")] if split else []
    made.pre_tokenizer = pre_tokenizers.Sequence([*cuts, alphabet]) if cuts else alphabet
    made.decoder = decoders.ByteLevel()
    if nfc:
        made.normalizer = normalizers.NFC()
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=MARKS, initial_alphabet=letters)
    made.train_from_iterator(SENTENCES, trainer)
    made.add_tokens([AddedToken("<note>", normalized=False)])
    ids = [(MARKS[0], made.token_to_id(MARKS[0]))]
    made.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(single=f"{MARKS[0]} $A", special_tokens=ids),
        ]
    )
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token=MARKS[0], eos_token=MARKS[1], pad_token=MARKS[1])


def sentence_piece(*, prefix: bool) -> Any:
    """A BPE that merges as SentencePiece does: Llama 2's with a blank before the text, Gemma's without."""
    special = ["<unk>", *MARKS]
    made = Tokenizer(models.BPE())
    made.normalizer = normalizers.Replace(" ", "▁")
    made.train_from_iterator(SENTENCES, trainers.BpeTrainer(vocab_size=220, special_tokens=special))
    described = json.loads(made.to_str())
    vocab = described["model"]["vocab"]
    for byte in range(256):
        vocab[f"<0x{byte:02X}>"] = len(vocab)
    learned = dict.fromkeys("".join(merge) for merge in described["model"]["merges"])
    merges = generate_merges(vocab, {token: -rank for rank, token in enumerate(learned)}, skip_tokens=special)
    described["model"] |= {"merges": [list(merge) for merge in merges]}
    described["model"] |= {"byte_fallback": True, "fuse_unk": True, "unk_token": "<unk>"}
    tokenizer = Tokenizer.from_str(json.dumps(described))
    if prefix:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    strip = [decoders.Strip(" ", 1, 0)] if prefix else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    ids = [(MARKS[0], tokenizer.token_to_id(MARKS[0]))]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{MARKS[0]} $A", special_tokens=ids)
    names = {"bos_token": MARKS[0], "eos_token": MARKS[1], "unk_token": "<unk>", "pad_token": MARKS[1]}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


SMALL = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.15,
}
GEMMA = {"head_dim": 256, "query_pre_attn_scalar": 256, "sliding_window": 8, "num_attention_heads": 2}

TINY: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "llama": ("Llama", byte_level, {"tie_word_embeddings": True}),
    "llama2": ("Llama", lambda: sentence_piece(prefix=True), {"tie_word_embeddings": False}),
    "mistral": ("Mistral", lambda: byte_level(LLAMA3, ignore_merges=True), {"head_dim": 32, "sliding_window": None}),
    "qwen2": ("Qwen2", lambda: byte_level(QWEN2, nfc=True), {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3", lambda: byte_level(QWEN2, nfc=True), {"head_dim": 128, "num_attention_heads": 2}),
    "gemma2": ("Gemma2", lambda: sentence_piece(prefix=False), GEMMA),
    "gemma3": ("Gemma3", lambda: sentence_piece(prefix=False), {**GEMMA, "num_hidden_layers": 6}),
}
"""Class, tokenizer and settings."""


def make_model(name: str, folder: Path, *, shard: str = "50KB", **settings: Any) -> Path:
    """Write a model with random weights, in several files; its embedding has rows that are no token."""
    import torch
    import transformers

    kind, make_tokenizer, own = TINY[name]
    tokenizer = make_tokenizer()
    tokenizer.chat_template = TEMPLATE
    config_class = getattr(transformers, f"{kind}TextConfig" if kind == "Gemma3" else f"{kind}Config")
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = config_class(**{**SMALL, **own, "vocab_size": len(tokenizer) + 5, "pad_token_id": 0, **ids, **settings})
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}ForCausalLM")(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder, max_shard_size=shard)
    tokenizer.save_pretrained(folder)
    return folder
