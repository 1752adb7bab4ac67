"""What every run of the benchmark trains on: a Llama with random weights, its tokenizer, rows, and the recipe."""

import json
import math
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from plan_parts.material import SPECIAL, write_tokenizer


@dataclass(frozen=True, slots=True)
class Size:
    """A model, and the batches that it sees."""

    hidden: int
    layers: int
    heads: int
    key_heads: int
    wide: int
    vocabulary: int
    length: int
    """Tokens of each row."""
    micro: int
    """Rows of a micro-batch."""


LARGE = Size(2048, 16, 32, 8, 8192, 128_256, 2048, 8)
"""The shape of Llama-3.2-1B: 1.24 billion parameters, embeddings tied."""

MIDDLE = Size(768, 12, 12, 4, 2048, 32_000, 2048, 8)
"""100 million parameters, whose checkpoints are 1.2 GB."""

TINY = Size(64, 2, 4, 2, 128, 512, 64, 2)


def make_material(folder: Path, size: Size, rows: int) -> None:
    """Write the model (bf16), its tokenizer and `rows` rows, in a process of its own: what it used of a GPU is free."""
    if (folder / "recipe.json").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        process.submit(_write, folder, size, rows).result()


def write_recipe(folder: Path, size: Size, steps: int, dtype: str, checkpoints: str | int) -> Path:
    """The recipe of all runs; what differs between them is said on the command line."""
    path = folder / "recipe.json"
    path.write_text(json.dumps(recipe(folder, size, steps, dtype, checkpoints), indent=2), encoding="utf-8")
    return path


def recipe(folder: Path, size: Size, steps: int, dtype: str, checkpoints: str | int) -> dict[str, Any]:
    """Full fine-tuning at a constant rate, so that runs of other lengths begin alike."""
    return {
        "type": "sft",
        "model": {"path": str(folder / "model"), "dtype": dtype},
        "data": {"train": str(folder / "rows.jsonl"), "max_length": size.length},
        "peft": {"type": "full"},
        "optim": {"learning_rate": 1e-4},
        "schedule": {"max_steps": steps, "type": "constant", "warmup": 2},
        "batch": {"micro_batch_size": size.micro},
        "checkpoint": {"every": checkpoints, "keep": 1},
    }


def write_rows(file: Path, rows: int, words: int, vocabulary: int) -> None:
    """Texts of so many words; a word's chance falls with its rank, so there is something to learn within few steps."""
    import torch

    torch.manual_seed(0)
    ranks = torch.exp(torch.rand(rows, words) * math.log(vocabulary - len(SPECIAL))).long()
    with file.open("w", encoding="utf-8") as opened:
        for row in ranks.tolist():
            opened.write(json.dumps({"text": " ".join(f"w{len(SPECIAL) - 1 + rank}" for rank in row)}) + "\n")


def _write(folder: Path, size: Size, rows: int) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    write_rows(folder / "rows.jsonl", rows, size.length - 1, size.vocabulary)
    config = LlamaConfig(
        vocab_size=size.vocabulary,
        hidden_size=size.hidden,
        intermediate_size=size.wide,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.key_heads,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=3,
        dtype="bfloat16",
    )
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder / "model")
    write_tokenizer(folder / "model", size.vocabulary)
