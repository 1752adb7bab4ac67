"""A Llama of a given shape with random weights, its tokenizer, and rows of random words of log-normal lengths."""

import json
import math
from pathlib import Path

from train_parts.work import MODELS

SPECIAL = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
END_TO_END = (
    "{% for message in messages %}{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% else %} {% endif %}{% endfor %}"
)

SPREAD = 0.8
"""Standard deviation of the logarithm of lengths."""


def make_material(folder: Path, model: str, *, rows: int, mean: int, longest: int) -> None:
    """Write model (bf16), tokenizer, `rows.jsonl` and, of the same lengths, `pairs.jsonl`, unless they are there.

    The chat template writes turns end to end.
    """
    if (folder / "rows.jsonl").is_file():
        return
    import torch
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import WordLevel
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder.mkdir(parents=True, exist_ok=True)
    shape = MODELS[model]
    config = LlamaConfig(
        **shape,
        max_position_embeddings=8192,
        rope_parameters={"rope_type": "default", "rope_theta": 500_000.0},
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=3,
        dtype="bfloat16",
    )
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder / "model")
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # the room is another process's
    words = [*SPECIAL.values(), *(f"▁w{index}" for index in range(len(SPECIAL), shape["vocab_size"]))]
    tokenizer = Tokenizer(WordLevel({word: index for index, word in enumerate(words)}, unk_token=SPECIAL["unk_token"]))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL).save_pretrained(folder / "model")
    (folder / "end_to_end.jinja").write_text(END_TO_END, encoding="utf-8")
    drawn = torch.randn(rows).mul(SPREAD).add(math.log(mean) - SPREAD**2 / 2).exp()
    texts = []
    for length in drawn.round().clamp(8, longest - 1).int().tolist():  # the token that ends a row comes behind
        ids = torch.randint(len(SPECIAL), shape["vocab_size"], (length,)).tolist()
        texts.append(" ".join(f"w{index}" for index in ids))
    asked = "w9"
    pairs = [
        {"prompt": asked, "chosen": one.partition(" ")[2], "rejected": other.partition(" ")[2]}
        for one, other in zip(texts[::2], texts[1::2], strict=False)
    ]
    for name, rows_of in (("pairs", pairs), ("rows", [{"text": text} for text in texts])):
        lines = [json.dumps(row) + "\n" for row in rows_of]
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
