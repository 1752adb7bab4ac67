"""Models with random weights, a tokenizer with a word for each token, and rows of exactly so many tokens."""

import json
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plan_parts.settings import Sections, Setting

if TYPE_CHECKING:
    import torch

SPECIAL = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
ROWS = 128
DRAWN = 2**24 + 43
"""Weights that are drawn; all others repeat them, no row of a matrix like the one above it."""

DONE = "done"


def write_model(folder: Path, config: Sections) -> None:
    """A model in bf16 and its tokenizer, where they are not there yet.

    The file is written piece by piece in the layout of safetensors (8 bytes with the length of a header in JSON, the
    header, the numbers), since 16 GB would otherwise be held twice.
    """
    if (folder / DONE).is_file():
        return
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    shapes = {name: list(parameter.shape) for name, parameter in model.named_parameters()}
    draws = (torch.randn(DRAWN, generator=torch.Generator().manual_seed(0)) * 0.02).bfloat16()
    drawn, ones = _bytes(draws), _bytes(torch.ones(2**16, dtype=torch.bfloat16))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * torch.Size(shape).numel()
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for shape in shapes.values():
            source, left = memoryview(drawn if len(shape) > 1 else ones), 2 * torch.Size(shape).numel()
            while left:
                left -= file.write(source[:left])
    write_tokenizer(folder, config["vocab_size"])
    (folder / DONE).touch()


def _bytes(values: "torch.Tensor") -> bytes:
    import torch

    content: bytes = values.view(torch.int16).numpy().tobytes()
    return content


def write_tokenizer(folder: Path, vocabulary: int) -> None:
    """A tokenizer with one word a token, w4 to the last."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    words = [*SPECIAL.values(), *(f"▁w{index}" for index in range(len(SPECIAL), vocabulary))]
    inner = Tokenizer(WordLevel({word: index for index, word in enumerate(words)}, unk_token=SPECIAL["unk_token"]))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    PreTrainedTokenizerFast(tokenizer_object=inner, **SPECIAL).save_pretrained(folder)


def write_rows(folder: Path, settings: Iterable[Setting], vocabulary: int) -> None:
    """The rows of all settings. Texts and answers end with a token of their own, which counts."""
    rng = random.Random(0)

    def words(count: int) -> str:
        return " ".join(f"w{rng.randrange(len(SPECIAL), vocabulary)}" for _ in range(count))

    for setting in {setting.file: setting for setting in settings}.values():
        length = setting.rows or setting.length
        rows: list[dict[str, str]]
        if setting.kind == "rm":
            rows = [_pair(words, length - 1) for _ in range(ROWS)]
        else:
            rows = [{"text": words(length if setting.kind == "ppo" else length - 1)} for _ in range(ROWS)]
        lines = (json.dumps(row) + "\n" for row in rows)
        (folder / setting.file).write_text("".join(lines), encoding="utf-8")


def _pair(words: Callable[[int], str], length: int) -> dict[str, str]:
    """Two texts of so many words, of which half are common: the prompt."""
    common = words(length // 2)
    return {side: f"{common} {words(length - length // 2)}" for side in ("chosen", "rejected")}
