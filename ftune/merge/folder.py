"""What lies beside the weights of a merged model: configuration, tokenizer, chat template, generation settings."""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ftune.core.checkpoints import MANIFEST, commit_folder
from ftune.core.errors import ModelError, StorageError
from ftune.core.paths import shown
from ftune.merge.checkpoint import GENERATION, Checkpoint
from ftune.merge.settings import read_settings

CONFIG, ADAPTER_CONFIG = "config.json", "adapter_config.json"
OF_ADAPTER = {ADAPTER_CONFIG, "adapter_model.safetensors", "README.md", MANIFEST}
"""Files of an adapter that a merged model does not need."""

NOT_COPIED = {CONFIG, "README.md", MANIFEST}

ROOM = 1.02
"""What is asked of the disk, as a multiple of the tensors' size."""


def check_output(output: Path, inputs: Sequence[Path], need: int, *, overwrite: bool) -> None:
    """Whether a model of `need` bytes can be written to `output`.

    Raises ModelError where it would be inside of what is read, is taken or may not be written, StorageError for a disk
    without room.
    """
    for folder in inputs:
        ours, theirs = output.resolve(), folder.resolve()
        if ours.is_relative_to(theirs) or theirs.is_relative_to(ours):
            place = "is" if ours == theirs else "is inside of" if ours.is_relative_to(theirs) else "holds"
            raise ModelError(f"output: {shown(output)} {place} {shown(folder)}, which is read; choose another folder")
    if output.is_dir() and any(output.iterdir()):
        merged = (output / MANIFEST).is_file() and any((output / name).is_file() for name in (CONFIG, ADAPTER_CONFIG))
        if not merged:
            raise ModelError(f"output: {shown(output)} is not empty and holds no merged model; choose another folder")
        if not overwrite:
            raise ModelError(
                f"output: {shown(output)} holds a model; --overwrite replaces it, --output writes elsewhere"
            )
    there = next(folder for folder in output.absolute().parents if folder.exists())
    if file := next((path for path in (output, there) if path.exists() and not path.is_dir()), None):
        raise ModelError(f"output: {shown(file)} is a file; give a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ModelError(f"output: {shown(there)} may not be written; choose another folder with --output")
    free = shutil.disk_usage(there).free
    if need * ROOM > free:
        raise StorageError(
            f"output: {shown(output)} needs {_size(need * ROOM)}, {_size(free)} are free; make room, or choose another "
            "folder with --output"
        )


def _size(count: float) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def put_in_place(staging: Path, output: Path) -> None:
    """Make the staged folder durable and give it its name. An empty folder there gives way; it is nobody's model."""
    if output.is_dir() and not any(output.iterdir()):
        output.rmdir()
    commit_folder(staging, output)


def copy_beside(base: Checkpoint, adapter: Path | None, target: Path) -> None:
    """The base's files that are not weights; those that were trained with (tokenizer, chat template) in their place."""
    for file in base.beside():
        if file.name not in NOT_COPIED:
            shutil.copyfile(file, target / file.name)
    if adapter is None:
        return
    ours = [file for file in sorted(adapter.iterdir()) if file.is_file() and file.name not in OF_ADAPTER]
    if any(file.name == "tokenizer_config.json" for file in ours):
        (target / "chat_template.jinja").unlink(missing_ok=True)  # the adapter's, or none
    for file in ours:
        shutil.copyfile(file, target / file.name)


def write_config(base: Checkpoint, changes: dict[str, Any], target: Path) -> None:
    """The base's configuration as in its file, but for `changes`; those of a part (`text_config`) in that part."""
    raw = read_settings(base.folder / CONFIG)
    parts = {key: raw[key] for key in base.config.sub_configs if isinstance(raw.get(key), dict)}
    for key, value in changes.items():
        if key in parts:
            parts[key] |= value
            continue
        for name, part in parts.items():
            if key in part and (key == "dtype" or name == "text_config"):
                part[key] = value
        raw[key] = value
    if "dtype" in changes:
        for one in (raw, *parts.values()):
            one.pop("torch_dtype", None)
    (target / CONFIG).write_text(json.dumps(raw, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def add_stop(token: int, target: Path) -> bool:
    """Let generation end with this token too; whether it did not before."""
    file = target / GENERATION
    settings = read_settings(file) if file.is_file() else {}
    config = read_settings(target / CONFIG)
    known = settings.get("eos_token_id", config.get("eos_token_id"))
    stops = [*known] if isinstance(known, list) else [] if known is None else [known]
    if token in stops:
        return False
    settings["eos_token_id"] = [token, *stops] if stops else token
    file.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    return True
