"""A finished model folder in fewer bits, and proof that the new folder computes what was written."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from ftune.core.checkpoints import MANIFEST, commit_folder, stage_folder, writing
from ftune.core.errors import LaunchError, ModelError
from ftune.merge.quantized.kind import Kind, quantization_fault

INT4_GROUP = 64
"""Weights of one row that share a scale; 128, torchao's own, does not divide rows of 576 as SmolLM2 has them."""

PROBE_TOKENS = 32

SAME_LOGITS = 1e-2
"""How far apart, as a share of the largest, logits may be that the same weights give in two passes of 16 bit."""

REWRITTEN = {"config.json", "model.safetensors.index.json", MANIFEST}
FOLDERS = {"additional_chat_templates"}
"""Folders in which transformers keeps parts of a tokenizer."""


@dataclass(frozen=True, slots=True)
class Quantized:
    """Which matrices of the model are in fewer bits now."""

    matrices: int
    """How many are."""
    whole: tuple[str, ...]
    """Names of the linear layers that are as they were: the output head, and any that the kind cannot hold."""


def quantize_folder(
    source: Path, target: Path, kind: Kind, device: str, *, max_shard_size: str | int = "5GB"
) -> Quantized:
    """Write the model of `source`, a plain transformers folder, to `target` as `kind`, computing on `device`.

    - nf4: blocks of 64 weights share a scale, and the scales are quantised too (arXiv:2305.14314, section 3)
    - int8: a scale a row; features above 6.0 are computed in 16 bit (arXiv:2208.07339, section 3)
    - fp8: float8 e4m3 with a scale a row, for weights alone
    - int4: groups of 64 weights share scale and zero point; what stays whole becomes bf16

    Embeddings, norms and the output head stay in the source's dtype. Tokenizer, chat template and generation config are
    copied as they are. `target` appears only when the written folder has loaded again and given the same finite logits.

    Raises LaunchError for a kind that cannot be done here, ModelError where the source is no causal language model of
    full precision or the result does not compute, StorageError when the disk refuses.
    """
    if fault := quantization_fault(kind, device):
        raise LaunchError(f"quantize: {fault}")
    config = _config(source)
    new, old = target.resolve(), source.resolve()
    if new.is_relative_to(old) or old.is_relative_to(new):
        raise ModelError(f"{target}: is not apart from {source}, which is read; choose another folder")
    staging = stage_folder(target)
    with writing(staging):
        with _plainly(f"{source}: cannot be stored as {kind}"):
            model = _load_whole(source, kind, device, config.get("dtype"))
            counted = _count(model, source, kind)
        model.save_pretrained(staging, max_shard_size=max_shard_size)
        _copy_rest(source, staging)
        with _plainly(f"{source}: as {kind} it does not compute on '{device}'"):
            expected = _probe(model)
            del model  # its place is needed for the one that was written
            loaded = AutoModelForCausalLM.from_pretrained(staging, device_map=device, local_files_only=True)
            _compare(target, _probe(loaded.eval()), expected)
    commit_folder(staging, target)
    return counted


def _config(source: Path) -> dict[str, Any]:
    try:
        config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{source}: holds no readable config.json; quantising starts from a model folder") from error
    if "quantization_config" in config:
        method = config["quantization_config"].get("quant_method", "another way")
        raise ModelError(f"{source}: is quantised already ({method}); start from the model in full precision")
    return dict(config)


def _quantization(kind: Kind, dtype: str) -> Any:
    """The configuration that transformers quantises by and writes into `config.json`."""
    if kind == "nf4":
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    if kind == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    from torchao.quantization import Float8WeightOnlyConfig, Int4WeightOnlyConfig
    from transformers import TorchAoConfig

    if kind == "fp8":
        return TorchAoConfig(Float8WeightOnlyConfig())
    return TorchAoConfig(Int4WeightOnlyConfig(group_size=INT4_GROUP, int4_packing_format="tile_packed_to_4d"))


def _load_whole(source: Path, kind: Kind, device: str, dtype: str | None) -> Any:
    """The quantised model. Raises ModelError where it does not take exactly the tensors of the source."""
    model, info = AutoModelForCausalLM.from_pretrained(
        source,
        dtype="bfloat16" if kind == "int4" else "auto",  # the only dtype that torchao's product has beside it
        device_map=device,
        use_safetensors=True,
        local_files_only=True,
        quantization_config=_quantization(kind, dtype or "float32"),
        output_loading_info=True,
    )
    for what, names in (("has no place for", info["unexpected_keys"]), ("misses", info["missing_keys"])):
        if names:
            shown = ", ".join(sorted(names)[:3])
            raise ModelError(
                f"{source}: its causal language model {what} {len(names)} tensors ({shown}); not quantised"
            )
    return model.eval()


@contextmanager
def _plainly(what: str) -> Iterator[None]:
    """The libraries' many ways to fail, as one line that begins with `what`."""
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, AssertionError, ImportError, SafetensorError) as error:
        cause = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ModelError(f"{what}: {cause}; choose another kind or another device") from error


def _count(model: Any, source: Path, kind: Kind) -> Quantized:
    layers = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    whole = tuple(name for name, layer in layers.items() if type(layer.weight) is torch.nn.Parameter)
    if len(whole) == len(layers):
        raise ModelError(f"{source}: none of its {len(layers)} linear layers can be stored as {kind}")
    return Quantized(len(layers) - len(whole), whole)


def _copy_rest(source: Path, staging: Path) -> None:
    """Everything but weights and what goes with them, byte for byte."""
    for path in source.iterdir():
        if path.is_dir() and path.name in FOLDERS:
            shutil.copytree(path, staging / path.name)
        elif path.is_file() and path.name not in REWRITTEN and path.suffix not in {".safetensors", ".bin", ".gguf"}:
            shutil.copyfile(path, staging / path.name)


def _probe(model: Any) -> torch.Tensor:
    """Logits of one row of tokens from all over the vocabulary, shape (tokens, V), fp32 on the CPU."""
    vocabulary = model.config.get_text_config().vocab_size
    ids = torch.linspace(0, vocabulary - 1, PROBE_TOKENS).long()[None]
    with torch.inference_mode():
        logits: torch.Tensor = model(input_ids=ids.to(model.device), use_cache=False).logits[0]
    return logits.float().cpu()


def _compare(target: Path, found: torch.Tensor, expected: torch.Tensor) -> None:
    if not bool(torch.isfinite(found).all()):
        raise ModelError(f"{target}: the quantised model gives logits that are not finite; nothing was written")
    apart = float((found - expected).abs().max() / expected.abs().max())
    if apart > SAME_LOGITS:
        raise ModelError(
            f"{target}: the written model computes something else than the one in memory (logits {apart:.1%} apart); "
            "nothing was written"
        )
