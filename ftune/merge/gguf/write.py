"""A finished model folder becomes one GGUF file, a few rows of a tensor in memory at a time."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ftune.core.checkpoints import storage_errors
from ftune.core.errors import ModelError, StorageError
from ftune.core.paths import shown
from ftune.data.template import adds_bos
from ftune.merge.checkpoint import Checkpoint, open_checkpoint
from ftune.merge.gguf.architectures import ARCHITECTURES, Architecture, UnfitError, head_dim
from ftune.merge.gguf.kinds import Kind, check_kind, llama_cpp_command
from ftune.merge.gguf.rope import write_rope
from ftune.merge.gguf.vocabulary import vocabulary_of
from ftune.models.load import load_tokenizer

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType, GGUFWriter
    from transformers import PreTrainedTokenizerBase

    from ftune.merge.engines.gguf_tensors import Outgoing

METADATA_BYTES = 64 * 2**20
"""Room that is asked for beside the tensors: the largest vocabularies take about 20 MiB."""


def write_gguf(folder: Path, file: Path, kind: str, progress: Callable[[int, int], None]) -> None:
    """Write the model of `folder` as the GGUF file `file`, which appears only when it is complete.

    `kind` is one of KINDS; vectors are f32 in each of them. `progress` gets the tensors written and their number.
    Raises ModelError, with the command of llama.cpp, for what cannot be written here, StorageError where the disk
    refuses.
    """
    chosen = check_kind(kind, folder, file)
    model = open_checkpoint(str(folder))
    tokenizer = load_tokenizer(str(folder))
    try:
        architecture = _architecture(model)
        writer = _writer(model, tokenizer, architecture, chosen, file)
        tensors = list(_tensors(model, architecture, chosen))
        frequencies = write_rope(writer, model.config)
    except UnfitError as unfit:
        raise _refused(unfit, folder, file, kind) from None
    with _appearing(file, sum(tensor.nbytes for tensor in tensors)) as temporary:
        try:
            _write(writer, temporary, tensors, frequencies, progress)
        finally:
            writer.close()


def check_architecture(model: Checkpoint, folder: Path, file: Path, kind: str) -> None:
    """Raises ModelError, with the command of llama.cpp, where `write_gguf` could not write what `model` becomes."""
    try:
        _architecture(model)
    except UnfitError as unfit:
        raise _refused(unfit, folder, file, kind) from None


def _refused(unfit: UnfitError, folder: Path, file: Path, kind: str) -> ModelError:
    command = llama_cpp_command(folder, file, kind)
    return ModelError(f"gguf: {shown(folder)}: {unfit}, which is not written here; with llama.cpp: {command}")


def _architecture(model: Checkpoint) -> Architecture:
    config = model.config
    heads = config.architectures or ["a model of unknown class"]
    if config.model_type not in ARCHITECTURES or not heads[0].endswith("ForCausalLM"):
        raise UnfitError(f"is a {heads[0]} ({config.model_type})")
    return ARCHITECTURES[config.model_type]


def _writer(
    model: Checkpoint, tokenizer: "PreTrainedTokenizerBase", architecture: Architecture, kind: Kind, file: Path
) -> "GGUFWriter":
    """A writer that knows all but the rotary embedding and the tensors."""
    from gguf import GGML_QUANT_VERSION, GGUFWriter, LlamaFileType

    writer = GGUFWriter(None, architecture.name)
    writer.add_type("model")
    writer.add_name(file.stem)
    writer.add_file_type(LlamaFileType[kind.file_type])
    writer.add_quantization_version(GGML_QUANT_VERSION)
    architecture.write_settings(writer, model.config)
    vocabulary_of(tokenizer, model.config.vocab_size).write(writer)
    _write_special_tokens(writer, tokenizer, model.folder)
    return writer


def _write_special_tokens(writer: "GGUFWriter", tokenizer: "PreTrainedTokenizerBase", folder: Path) -> None:
    from transformers import GenerationConfig

    add = {
        "bos": writer.add_bos_token_id,
        "eos": writer.add_eos_token_id,
        "unk": writer.add_unk_token_id,
        "pad": writer.add_pad_token_id,
    }
    for name, add_id in add.items():
        if (token := getattr(tokenizer, f"{name}_token_id")) is not None:
            add_id(token)
    with suppress(OSError):  # a folder without generation_config.json
        stops = GenerationConfig.from_pretrained(folder).eos_token_id
        turn_ends = [stop for stop in (stops if isinstance(stops, list) else [stops]) if stop != tokenizer.eos_token_id]
        if turn_ends and turn_ends[0] is not None:
            writer.add_eot_token_id(turn_ends[0])
    writer.add_add_bos_token(adds_bos(tokenizer))
    writer.add_add_eos_token(tokenizer("a")["input_ids"][-1:] == [tokenizer.eos_token_id])
    template = tokenizer.chat_template
    writer.add_chat_template(template["default"] if isinstance(template, dict) else template or "")


def _tensors(model: Checkpoint, architecture: Architecture, kind: Kind) -> Iterator["Outgoing"]:
    """Every tensor under its new name. Raises UnfitError for one that has no place in the architecture."""
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    from ftune.merge.engines.gguf_tensors import Outgoing

    arch = next(arch for arch, name in MODEL_ARCH_NAMES.items() if name == architecture.name)
    names = get_tensor_name_map(arch, model.config.num_hidden_layers)
    for name, stored in model.tensors.items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        *path, module, suffix = name.split(".")
        known = suffix == "weight" or (suffix == "bias" and module in architecture.biases)
        new = names.get_name(name, try_suffixes=(f".{suffix}",)) if known else None
        if new is None:
            raise UnfitError(f"has a tensor '{name}'")
        yield Outgoing(
            new,
            stored,
            _stored_as(stored.shape, kind.ends if not path or module == "embed_tokens" else "", kind.matrices),
            plus=1.0 if architecture.norms_plus_one and module.endswith("norm") else 0.0,
            pairs=head_dim(model.config) if architecture.pairs_interleaved and module in {"q_proj", "k_proj"} else 0,
        )


def _stored_as(shape: tuple[int, ...], own: str, matrices: str) -> "GGMLQuantizationType":
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    kind = GGMLQuantizationType[own or matrices]
    if len(shape) == 1:
        return GGMLQuantizationType.F32
    return kind if shape[-1] % GGML_QUANT_SIZES[kind][0] == 0 else GGMLQuantizationType.F16


def _write(
    writer: "GGUFWriter",
    file: Path,
    tensors: list["Outgoing"],
    frequencies: list[float] | None,
    progress: Callable[[int, int], None],
) -> None:
    import numpy as np

    factors = None if frequencies is None else np.array(frequencies, dtype=np.float32)
    if factors is not None:
        writer.add_tensor_info("rope_freqs.weight", factors.shape, factors.dtype, factors.nbytes)
    for tensor in tensors:
        # a dtype that is not uint8 makes gguf 0.19 take the shape as it is, in numbers
        shape, size = tensor.source.shape, tensor.nbytes
        writer.add_tensor_info(tensor.name, shape, np.dtype(np.float32), size, raw_dtype=tensor.kind)
    writer.write_header_to_file(file)
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    if factors is not None:
        writer.write_tensor_data(factors)
    for done, tensor in enumerate(tensors, start=1):
        writer.write_tensor_data(tensor)
        progress(done, len(tensors))
    writer.flush()


@contextmanager
def _appearing(file: Path, size: int) -> Iterator[Path]:
    """A temporary name beside `file`, which gets its own name when it is on the disk, and is removed on a failure."""
    temporary = file.with_name(f".{file.name}.tmp")
    with storage_errors(file):
        if file.is_dir():
            raise StorageError(f"{shown(file)}: is a folder; give the name of a file")
        file.parent.mkdir(parents=True, exist_ok=True)
        free, needed = shutil.disk_usage(file.parent).free, size + METADATA_BYTES
        if free < needed:
            raise StorageError(
                f"{shown(file)}: needs {needed / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free; make room or write "
                "it to another disk"
            )
        try:
            yield temporary
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            temporary.replace(file)
            _sync(file.parent)
        finally:
            temporary.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    """Make the new name durable, where the file system can."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
