"""The tensors of a model folder, by the names that its own model class gives them."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ftune.core.errors import ModelError
from ftune.core.paths import shown
from ftune.merge.settings import read_settings
from ftune.merge.tensors import Stored, stored_in
from ftune.models.reference import is_hub_id

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

GENERATION = "generation_config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
OTHER_WEIGHTS = (".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx", ".safetensors", ".index.json", ".ckpt")
"""Files of a model's folder that hold weights in another form, which a merged model must not bring along."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model on the disk."""

    folder: Path
    config: "PreTrainedConfig"
    tensors: dict[str, Stored]
    """By their names in the files."""

    @property
    def size(self) -> int:
        """Bytes of all tensors."""
        return sum(one.size for one in self.tensors.values())

    def beside(self) -> Iterator[Path]:
        """The files of the folder that are not its weights: tokenizer, generation settings, code, licence."""
        for path in sorted(self.folder.iterdir()):
            if path.is_file() and not path.name.startswith(".") and not path.name.endswith(OTHER_WEIGHTS):
                yield path


def open_checkpoint(located: str, *, revision: str | None = None, trust_remote_code: bool = False) -> Checkpoint:
    """The model that `locate_model` found. Raises ModelError where it is not whole or cannot be merged into."""
    from ftune.models.load import load_config

    config = load_config(located, revision=revision, trust_remote_code=trust_remote_code)
    if getattr(config, "quantization_config", None) is not None:
        raise ModelError(
            f"{located}: its weights are quantised, and an update cannot be added to them; give the model in 16 or 32 "
            "bit as --base"
        )
    folder = folder_of(located, revision)
    if (generation := folder / GENERATION).is_file():
        read_settings(generation)  # a broken one is told now, and not when the weights are written
    return Checkpoint(folder, config, _tensors(folder))


def folder_of(located: str, revision: str | None = None) -> Path:
    """The folder with a located model's files; a hub id is looked up in the cache, and downloaded where need be."""
    if not is_hub_id(located):
        return Path(located)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    wanted = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "*.py", "LICENSE*"]
    try:
        return Path(snapshot_download(located, revision=revision, allow_patterns=wanted))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        cause = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{located}: its weights are not here and cannot be fetched ({cause})") from None


def _tensors(folder: Path) -> dict[str, Stored]:
    names: set[str] | None = None
    if (index := folder / INDEX).is_file():
        weight_map = _weight_map(index)
        names = set(weight_map)
        files = sorted({folder / Path(name).name for name in weight_map.values()})
    else:
        files = [folder / WEIGHTS] if (folder / WEIGHTS).is_file() else sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelError(f"{shown(folder)}: holds no safetensors files; convert its weights to safetensors first")
    if missing := [file.name for file in files if not file.is_file()]:
        raise ModelError(f"{shown(folder)}: its index names {first_of(missing)}, not there; fetch the model again")
    found: dict[str, Stored] = {}
    for file in files:
        for one in stored_in(file):
            if names is not None and one.name not in names:
                continue
            if one.name in found:
                raise ModelError(f"{shown(folder)}: '{one.name}' is in {found[one.name].file.name} and in {file.name}")
            found[one.name] = one
    if names is not None and (absent := sorted(names - found.keys())):
        raise ModelError(f"{shown(folder)}: its index names {first_of(absent)}, in none of its files; fetch it again")
    return found


def _weight_map(index: Path) -> dict[str, str]:
    """The file of each tensor. Raises ModelError for a file that is no index."""
    try:
        found = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        if found and all(isinstance(file, str) for file in found.values()):
            return dict(found)
    except (ValueError, LookupError, TypeError, AttributeError, OSError, RecursionError):
        pass
    raise ModelError(f"{shown(index)}: is no index of a model's files; fetch it again")


def first_of(names: list[str]) -> str:
    """The first three, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(f"'{name}'" for name in names[:3]) + more
