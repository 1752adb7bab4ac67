"""What is merged: a Llama with random weights in bf16, its tokenizer, and a LoRA adapter on all its linear layers."""

import json
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import LlamaConfig

BASE, ADAPTER = "base", "adapter"
READY = "ready.json"
"""Written last, with what the material was made for."""

RANK = 16
SPREAD = 0.02
"""Standard deviation of the base's weights."""

DRAWN = 2**25
"""Random values that are drawn; tensors are filled with them from a place of their own, so writing is not held up."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A model."""

    hidden: int
    wide: int
    layers: int
    heads: int
    key_heads: int
    vocabulary: int
    tied: bool
    shard_bytes: int = 5 * 10**9
    """The largest file of its weights, which are the hub's 5 GB."""


SHAPES = {
    "1b": Shape(2048, 8192, 16, 32, 8, 128_256, tied=True),
    "8b": Shape(4096, 14_336, 32, 32, 8, 128_256, tied=False),
    "tiny": Shape(64, 128, 2, 4, 2, 512, tied=False, shard_bytes=100_000),
}
"""Llama-3.2-1B, Llama-3-8B, and a try-out size in several files."""


def make_material(folder: Path, name: str) -> None:
    """Write base and adapter into `folder`, unless they are there. A process of its own does it, and ends."""
    ready = folder / READY
    if ready.is_file() and json.loads(ready.read_text(encoding="utf-8")) == {"shape": name}:
        return
    (folder / BASE).mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        process.submit(_write, folder, SHAPES[name]).result()
    ready.write_text(json.dumps({"shape": name}), encoding="utf-8")


def _write(folder: Path, shape: Shape) -> None:
    import torch
    from peft import LoraConfig, get_peft_model

    from ftune.merge.engines.skeleton import skeleton
    from ftune.merge.tensors import ShardWriter

    config = _config(shape)
    config.save_pretrained(folder / BASE)
    _write_tokenizer(folder / BASE)
    model = skeleton(config)
    writer = ShardWriter(folder / BASE, shape.shard_bytes, len(model.names))
    torch.manual_seed(0)
    drawn = torch.randn(DRAWN).mul_(SPREAD).bfloat16()
    for name in model.names:
        if name not in model.ties:
            size = model.model.get_parameter(name).shape
            writer.write(name, torch.cat(list(_filled(drawn, size.numel()))).reshape(size))
    writer.finish()
    # `init_lora_weights=False` draws both factors, so that the adapter changes every layer
    lora = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", init_lora_weights=False)
    lora.base_model_name_or_path = str(folder / BASE)
    wrapped = get_peft_model(model.model, lora)
    wrapped.save_pretrained(str(folder / ADAPTER), save_embedding_layers=False)


def _filled(drawn: "torch.Tensor", count: int) -> Iterator["torch.Tensor"]:
    """Pieces of `drawn` with `count` values together, from a random place on."""
    import torch

    start = int(torch.randint(len(drawn), (1,)))
    while count > 0:
        piece = drawn[start : start + count]
        yield piece
        start, count = 0, count - len(piece)


def _config(shape: Shape) -> "LlamaConfig":
    from transformers import LlamaConfig

    return LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.wide,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_heads,
        max_position_embeddings=8192,
        tie_word_embeddings=shape.tied,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=3,
        dtype="bfloat16",
    )


def _write_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import PreTrainedTokenizerFast

    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    words = {word: index for index, word in enumerate(special.values())}
    tokenizer = Tokenizer(WordLevel(words, unk_token=special["unk_token"]))
    tokenizer.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
