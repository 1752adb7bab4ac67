"""The settings of a GGUF file, read from its header alone: no weight, no token and no package is touched.

The layout is that of the specification (ggml, docs/gguf.md), versions 2 and 3: `GGUF`, version, counts of tensors and
of settings; then the settings as key, type and value; then name, dimensions, type and place of each tensor.
"""

from mmap import ACCESS_READ, mmap
from pathlib import Path
from struct import Struct, error
from struct import unpack_from as unpack
from typing import Any

from ftune.core.errors import ModelError

FORMATS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
TEXT, ARRAY = 8, 9
"""Types of values: numbers, and what has a length."""

MODEL_TYPES = {"gemma3": "gemma3_text", "gptneox": "gpt_neox"}
"""`general.architecture`, where transformers' `model_type` has another name."""

LENGTH = Struct("<Q")


def config_of_gguf(path: Path) -> dict[str, Any]:
    """The fields of `config.json` that a model's shape follows from. Raises ModelError for a file that is no GGUF."""
    try:
        with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as content:
            settings, tensors = _header(content)
    except (OSError, ValueError, error, UnicodeDecodeError, KeyError, RecursionError) as wrong:
        raise ModelError(f"model.path: {path} is not a GGUF file that can be read ({wrong})") from None
    family = str(settings.get("general.architecture", ""))

    def setting(name: str) -> Any:
        value = settings.get(f"{family}.{name}")
        return max(value) if isinstance(value, list) else value

    embedding = tensors.get("token_embd.weight", ())
    config = {
        "model_type": MODEL_TYPES.get(family, family),
        "hidden_size": setting("embedding_length"),
        "num_hidden_layers": setting("block_count"),
        "num_attention_heads": setting("attention.head_count"),
        "num_key_value_heads": setting("attention.head_count_kv"),
        "head_dim": setting("attention.key_length"),
        "intermediate_size": setting("feed_forward_length"),
        "max_position_embeddings": setting("context_length"),
        "vocab_size": embedding[1] if len(embedding) == 2 else setting("vocab_size"),
        "tie_word_embeddings": "output.weight" not in tensors,
    }
    return {name: value for name, value in config.items() if value is not None}


def _header(content: mmap) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    """Settings by key, and the dimensions of each tensor by name. Raises ValueError and struct.error."""
    magic, version, tensors, settings = unpack("<4sIQQ", content)
    if magic != b"GGUF" or version not in (2, 3):
        raise ValueError(f"it begins with {magic!r}, version {version}; GGUF of version 2 or 3 is read")
    at, found = 24, {}
    for _ in range(settings):
        key, at = _text(content, at)
        (kind,) = unpack("<I", content, at)
        found[key], at = _value(content, at + 4, kind)
    shapes = {}
    for _ in range(tensors):
        name, at = _text(content, at)
        (count,) = unpack("<I", content, at)
        shapes[name] = unpack(f"<{count}Q", content, at + 4)
        at += 4 + 8 * count + 12  # its type and its place
    return found, shapes


def _text(content: mmap, at: int) -> tuple[str, int]:
    (length,) = LENGTH.unpack_from(content, at)
    end = at + 8 + length
    return content[at + 8 : end].decode(), end


def _value(content: mmap, at: int, kind: int) -> tuple[Any, int]:
    """A value and where the next thing begins; of a list of texts (the vocabulary), how many they are."""
    if kind == TEXT:
        return _text(content, at)
    if kind != ARRAY:
        form = Struct(FORMATS[kind])
        return form.unpack_from(content, at)[0], at + form.size
    inner, count = unpack("<IQ", content, at)
    at += 12
    if inner == TEXT:
        for _ in range(count):
            at += 8 + LENGTH.unpack_from(content, at)[0]
        return count, at
    if inner == ARRAY:
        raise ValueError("it has lists of lists")
    numbers = Struct(f"<{count}{FORMATS[inner][1]}")
    return list(numbers.unpack_from(content, at)), at + numbers.size
