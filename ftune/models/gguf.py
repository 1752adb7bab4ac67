"""GGUF files become ordinary model folders once, so that everything after works on the standard layout."""

import hashlib
import shutil
from pathlib import Path
from typing import Any

from ftune.core.checkpoints import storage_errors
from ftune.core.errors import ModelError
from ftune.core.paths import cache_dir, in_cache

CONVERSION = 2
"""Counts up when a file becomes another folder than before, so that what the cache has of it is made anew."""


def folder_of_gguf(file: Path) -> Path:
    """The folder with the file's dequantised fp32 weights, configuration and tokenizer; converted on first use.

    It lies in the cache under the SHA-256 of the file. Weights loaded from GGUF cannot be saved as they are
    (transformers keeps a quantisation mark in the configuration that does not serialise), so they are copied into a
    fresh model. Raises ModelError when the file is no GGUF model that transformers can map.
    """
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    target = cache_dir() / "models" / f"{file.stem}-{digest[:16]}-{CONVERSION}"
    if (target / "config.json").is_file():
        return target
    staging = target.with_name(f".{target.name}.staging")
    shutil.rmtree(staging, ignore_errors=True)
    with in_cache(), storage_errors(staging):
        staging.mkdir(parents=True)  # nothing is converted for a cache that cannot be written to
    _convert(file, staging)
    if (target / "config.json").is_file():  # another process was faster
        shutil.rmtree(staging)
        return target
    staging.rename(target)
    return target


def _convert(file: Path, folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        loaded = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype="float32")
    except (ValueError, KeyError, IndexError, UnicodeDecodeError, OSError, NotImplementedError) as error:
        raise ModelError(f"{file}: not a GGUF model that can be read: {type(error).__name__}: {error}") from error
    _blank_behind_marks(tokenizer.backend_tokenizer)
    config = loaded.config
    del config.quantization_config
    config.name_or_path = file.stem
    fresh = type(loaded)(config)
    fresh.load_state_dict(loaded.state_dict())
    fresh.generation_config = loaded.generation_config
    fresh.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _blank_behind_marks(tokenizer: Any) -> None:
    """Put SentencePiece's blank behind every special token too, as Llama 2's own tokenizer and llama.cpp do.

    transformers 5.23 reads GGUF files so that only the beginning of a text gets one.
    """
    from tokenizers import normalizers, pre_tokenizers

    cuts = tokenizer.pre_tokenizer
    if isinstance(cuts, pre_tokenizers.Metaspace) and cuts.prepend_scheme == "first":
        blank = cuts.replacement
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(blank), normalizers.Replace(" ", blank)])
        tokenizer.pre_tokenizer = None
